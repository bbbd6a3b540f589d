"""`foveate attn render|video`: pictures from stored maps, videos from pictures. No model, no torch.

    foveate attn render results --layers 3,8 --colormap viridis --out results_viridis
    foveate attn video results --video_out results_video --format mp4 --burn_in

Each may be interrupted; the same command again goes on. Exit status 1: some episodes failed; each is named with its
reason, the others are done.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.cli.attn.options import EpisodeBar, FilmOptions, LookOptions, report, threads_of
from foveate.errors import FoveateError

if TYPE_CHECKING:
    from rich.console import Console

    from foveate.studies.attention.episodes import Outcome


@dataclass(frozen=True, kw_only=True)
class RenderConfig(LookOptions):
    """Draw the stored maps of `foveate attn episodes` again, with other layers, heads, colours or sizes."""

    results: str
    """Folder that `foveate attn episodes` wrote."""
    out: str | None = None
    """Folder of the new pictures; without one, they join the old ones and replace those of the same name."""
    data_root: str | None = None
    """Folder of the episodes, whose pictures are drawn on; without one, where they were then."""
    layers: tuple[int, ...] = ()
    """Layers to draw; without any, all that are stored."""
    heads: tuple[int, ...] = ()
    """Heads to draw; without any, all that are stored."""
    workers: str = "2"
    """Threads that draw."""


@dataclass(frozen=True, kw_only=True)
class VideoConfig(FilmOptions):
    """One video per layer and head of every episode, from its drawn keyframes."""

    results: str
    """Folder of pictures, <outcome>/<date>/<episode>/00000/ and so on."""
    video_out: str = "results_video"
    """Folder of the videos."""
    overwrite: bool = False
    """Make videos again that are newer than their pictures."""
    workers: str = "2"
    """Videos that are made at a time."""


def render(argv: list[str]) -> int:
    """The verb: pictures from stored maps."""
    from rich.console import Console

    from foveate.cli.config import parse
    from foveate.studies.attention.redraw import redraw, stored_episodes

    config: RenderConfig = parse(RenderConfig, argv, "foveate attn render", positional=("results",))
    console, results = Console(), Path(config.results)
    drawing, root = config.drawing(config.layers, config.heads), _data_root(config)
    out = Path(config.out) if config.out else results
    found = stored_episodes(results)
    outcomes: list[Outcome] = []
    with EpisodeBar(console, "episodes", len(found), len(found), 0) as bar:
        for outcome in redraw(found, results, root, out, drawing, threads_of(config.workers)):
            outcomes.append(outcome)
            bar.advance(1)
            bar.ended(outcome)
    return report(console, out, outcomes, None)


def _data_root(config: RenderConfig) -> Path:
    import yaml

    if config.data_root:
        return Path(config.data_root)
    try:
        return Path(yaml.safe_load((Path(config.results) / "config.yaml").read_text())["data_root"])
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise FoveateError(
            f"{config.results}: no config.yaml of `foveate attn episodes` that says where the episodes are ({error}); "
            "pass --data_root"
        ) from error


def video(argv: list[str]) -> int:
    """The verb: videos from pictures, and a ranking of the heads where the maps are there."""
    from rich.console import Console

    from foveate.cli.config import parse
    from foveate.studies.attention.redraw import film_all, pictured_episodes

    config: VideoConfig = parse(VideoConfig, argv, "foveate attn video", positional=("results",))
    console, results, out = Console(), Path(config.results), Path(config.video_out)
    found = pictured_episodes(results)
    outcomes = []
    with EpisodeBar(console, "episodes", len(found), len(found), 0) as bar:
        for outcome in film_all(found, results, out, config.filming(), threads_of(config.workers), config.overwrite):
            outcomes.append(outcome)
            bar.advance(1)
            bar.ended(outcome)
    _rank(console, results, found, out)
    return report(console, out, outcomes, None)


def _rank(console: Console, results: Path, keys: Iterable[str], out: Path) -> None:
    """Print the heads that are most active over all episodes, and write `heads.json`: each episode and all."""
    from rich.table import Table

    from foveate.studies.attention.redraw import rank_over

    ranking = rank_over(results, keys)
    if not ranking["all"]:
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / "heads.json").write_text(json.dumps(ranking, indent=1) + "\n")
    for phase, heads in ranking["all"].items():
        table = Table(title=f"most active heads, {phase}", caption=f"all of them, episode by episode: {out}/heads.json")
        for column in ("layer", "head", "variance of its map", "leads its layer in"):
            table.add_column(column, justify="right")
        for head in heads[:8]:
            table.add_row(
                str(head["layer"]), str(head["head"]), f"{head['activity']:.3g}", f"{head['first']:.0%} of frames"
            )
        console.print(table)
