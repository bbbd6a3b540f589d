"""`foveate attn episodes|render|video`: maps, pictures and videos of many episodes, and the same again without a model.

    foveate attn episodes toy_cube_benchmark --policy pi05_droid --out results --video_out results_video
    foveate attn render results --layers 3,8 --colormap viridis --out results_viridis
    foveate attn video results --video_out results_video --format mp4 --burn_in

Each may be interrupted; the same command again goes on. Exit status 1: some episodes failed; each is named with its
reason, the others are done.
"""

from __future__ import annotations

from pathlib import Path

from foveate.cli.attn.output import POLICY, print_outcomes, print_table
from foveate.util.progress import Reporter, plain_console
from foveate.util.words import percent


def episodes(argv: list[str]) -> int:
    """The verb: policy and data in, pictures, maps and videos out."""
    from foveate.cli.config import parse
    from foveate.studies.attention.episodes import EpisodesConfig, attend_episodes

    config = parse(EpisodesConfig, argv, "foveate attn episodes", aliases=POLICY, positional=("data_root",))
    screen = Reporter(plain_console())
    return print_outcomes(screen, attend_episodes(config, screen), Path(config.out), config.video_folder)


def render(argv: list[str]) -> int:
    """The verb: pictures from stored maps."""
    from foveate.cli.config import parse
    from foveate.studies.attention.redraw import RenderConfig
    from foveate.studies.attention.redraw import render as draw

    config = parse(RenderConfig, argv, "foveate attn render", positional=("results",))
    screen = Reporter(plain_console())
    return print_outcomes(screen, draw(config, screen), Path(config.out or config.results))


def video(argv: list[str]) -> int:
    """The verb: videos from pictures, and a ranking of the heads where the maps are there."""
    from foveate.cli.config import parse
    from foveate.studies.attention.redraw import VideoConfig
    from foveate.studies.attention.redraw import video as film

    config = parse(VideoConfig, argv, "foveate attn video", positional=("results",))
    screen = Reporter(plain_console())
    outcomes, ranking = film(config, screen)
    for phase, heads in ranking["all"].items():
        print_table(
            screen,
            f"most active heads, {phase}",
            ("layer", "head", "variance of its map", "leads its layer in"),
            [(h["layer"], h["head"], f"{h['activity']:.3g}", f"{percent(h['first'])} of frames") for h in heads[:8]],
        )
    if ranking["all"]:
        screen.line(f"all heads, episode by episode: {config.video_out}/heads.json")
    return print_outcomes(screen, outcomes, Path(config.video_out))
