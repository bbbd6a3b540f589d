"""What can be made again of finished episodes without the model: pictures from their maps, videos from their pictures.

    render(RenderConfig(results="results", layers=(3, 8), colormap="viridis", out="results_viridis"))
    video(VideoConfig(results="results", video_out="results_video", format="mp4", burn_in=True))

Each may be interrupted; the same call again goes on. Episodes are named by their place in the tree,
`<outcome>/<date>/<episode>`. NumPy, Pillow and PyAV; no torch.
"""

from __future__ import annotations

import shutil
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from foveate.data.droid.reader import Episode
from foveate.errors import FoveateError
from foveate.studies.attention.archive import MAPS, EpisodeMaps
from foveate.studies.attention.clips import Filming, clips_of, film, is_fresh, keyframes_of
from foveate.studies.attention.pictures import Drawing, draw_keyframe, marker_text
from foveate.studies.attention.pipeline import MARKER, PARTIAL, Outcome, follow, threads_of
from foveate.util.files import alone_in, write_json
from foveate.util.progress import SILENT, Reporter


@dataclass(frozen=True, kw_only=True)
class RenderConfig(Drawing):
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
class VideoConfig(Filming):
    """One video per layer and head of every episode, from its drawn keyframes."""

    results: str
    """Folder of pictures, <outcome>/<date>/<episode>/00000/ and so on."""
    video_out: str = "results_video"
    """Folder of the videos."""
    overwrite: bool = False
    """Make videos again that are newer than their pictures."""
    workers: str = "2"
    """Videos that are made at a time."""


@alone_in(lambda config: Path(config.out or config.results), "drawing")
def render(config: RenderConfig, report: Reporter = SILENT) -> list[Outcome]:
    """Pictures of all stored episodes, and `episodes.json` with what became of each.

    Raises:
        FoveateError: there are no stored maps, or nothing says where the episodes are.
    """
    results = Path(config.results)
    out = Path(config.out) if config.out else results
    root, keys = _data_root(config), stored_episodes(results)
    with report.bar("episodes", "episodes", len(keys)) as bar:
        drawn = redraw(keys, results, root, out, config, threads_of(config.workers))
        outcomes = follow(drawn, bar, len(keys), count=1)
    write_json(out / "episodes.json", [asdict(outcome) for outcome in outcomes])
    return outcomes


@alone_in(lambda config: Path(config.video_out), "making videos")
def video(config: VideoConfig, report: Reporter = SILENT) -> tuple[list[Outcome], dict[str, Any]]:
    """Videos of all pictured episodes, `episodes.json`, and `heads.json` where the maps are there.

    Returns:
        What became of each episode, and the ranking of the heads as `rank_over` gives it.
    """
    results, out = Path(config.results), Path(config.video_out)
    keys = pictured_episodes(results)
    with report.bar("episodes", "episodes", len(keys)) as bar:
        filmed = film_all(keys, results, out, config, threads_of(config.workers), config.overwrite)
        outcomes = follow(filmed, bar, len(keys), count=1)
    ranking = rank_over(results, keys)
    if ranking["all"]:
        write_json(out / "heads.json", ranking)
    write_json(out / "episodes.json", [asdict(outcome) for outcome in outcomes])
    return outcomes, ranking


def _data_root(config: RenderConfig) -> Path:
    if config.data_root:
        return Path(config.data_root)
    try:
        return Path(yaml.safe_load((Path(config.results) / "config.yaml").read_text())["data_root"])
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise FoveateError(
            f"{config.results}: no config.yaml of `foveate attn episodes` that says where the episodes are ({error}); "
            "pass --data_root"
        ) from error


def stored_episodes(results: Path) -> list[str]:
    """Finished episodes whose maps are there."""
    return _keys(results, f"*/*/*/{MAPS}", "stored maps; expected <outcome>/<date>/<episode>/maps.npz")


def pictured_episodes(results: Path) -> list[str]:
    """Finished episodes, by their marker, whoever drew them."""
    return _keys(results, f"*/*/*/{MARKER}", f"finished episode; expected <outcome>/<date>/<episode>/{MARKER}")


def _keys(results: Path, pattern: str, what: str) -> list[str]:
    found = sorted(path.parent.relative_to(results).as_posix() for path in results.glob(pattern))
    found = [key for key in found if not key.startswith(PARTIAL)]
    if not found:
        there = "no such folder" if not results.is_dir() else f"no {what}, as `foveate attn episodes` leaves it"
        raise FoveateError(f"{results}: {there}")
    return found


def redraw(
    keys: Sequence[str], results: Path, data_root: Path, out: Path, drawing: Drawing, threads: int = 2
) -> Iterator[Outcome]:
    """Draw episodes from their stored maps, on the pictures in the data root; what became of each.

    Into another folder than `results` an episode comes whole, with its marker, and one that has it is passed over. In
    the same folder pictures are replaced one by one, each whole.
    """
    with ThreadPoolExecutor(threads) as pool:
        for key in keys:
            if out != results and (out / key / MARKER).exists():
                yield Outcome(key, "skipped")
                continue
            try:
                _redraw(key, results, data_root, out, drawing, pool, 2 * threads)
            except FoveateError as error:
                yield Outcome(key, "failed", str(error))
                continue
            yield Outcome(key, "done")


def _redraw(
    key: str, results: Path, data_root: Path, out: Path, drawing: Drawing, pool: ThreadPoolExecutor, ahead: int
) -> None:
    stored = EpisodeMaps.load(results / key / MAPS)
    about, episode = stored.about, Episode(data_root / key, key.partition("/")[0])
    if not episode.folder.is_dir():
        raise FoveateError(f"episode {key}: its pictures are not in {data_root}; pass --data_root where they are now")
    beside = out != results
    folder = out / PARTIAL / key.replace("/", "__") if beside else results / key
    if beside:
        shutil.rmtree(folder, ignore_errors=True)
    views = {view: episode.frames(camera, about.keyframes) for view, camera in about.views.items()}
    busy: deque[Future[None]] = deque()
    try:
        for frame in about.keyframes:
            images = {view: next(frames) for view, frames in views.items()}
            busy.append(
                pool.submit(
                    draw_keyframe,
                    folder / f"{frame:05d}",
                    images,
                    {phase: stored.at(frame, phase) for phase in stored.maps},
                    drawing,
                    model_hw=about.model_hw,
                    title=about.instruction,
                )
            )
            while len(busy) > ahead:
                busy.popleft().result()
    finally:
        errors = [error for future in busy if (error := future.exception()) is not None]
    if errors:
        if beside:
            shutil.rmtree(folder, ignore_errors=True)
        raise errors[0]
    if beside:
        (folder / MARKER).write_text(marker_text(about, drawing.layers or about.layers), encoding="utf-8")
        (out / key).parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(out / key, ignore_errors=True)
        folder.rename(out / key)


def film_all(
    keys: Sequence[str], results: Path, out: Path, filming: Filming, threads: int = 2, overwrite: bool = False
) -> Iterator[Outcome]:
    """All videos of these episodes; what became of each. Videos newer than their pictures stay.

    Args:
        overwrite: make them again nevertheless.
    """
    with ThreadPoolExecutor(threads) as pool:
        for key in keys:
            folder, target = results / key, out / key
            try:
                clips = clips_of(folder)
                frames = keyframes_of(folder)
                todo = [c for c in clips if overwrite or not is_fresh(folder, target, c, filming, frames)]
                if not todo:
                    yield Outcome(key, "skipped")
                    continue
                text = instruction_of(folder)
                target.mkdir(parents=True, exist_ok=True)
                if text:
                    (target / "instruction.txt").write_text(text + "\n", encoding="utf-8")
                for future in [pool.submit(film, folder, target, clip, filming, text) for clip in todo]:
                    future.result()
            except FoveateError as error:
                yield Outcome(key, "failed", str(error))
                continue
            yield Outcome(key, "done")


def instruction_of(folder: Path) -> str:
    """What the stored maps say; empty where there are none."""
    return EpisodeMaps.load(folder / MAPS).about.instruction if (folder / MAPS).exists() else ""


def rank_over(results: Path, keys: Iterable[str]) -> dict[str, Any]:
    """`episodes`: key -> ranking of its heads; `all`: phase -> the mean over the episodes, most active first."""
    each = {key: EpisodeMaps.load(results / key / MAPS).ranking() for key in keys if (results / key / MAPS).exists()}
    sums: dict[str, dict[tuple[int, int], list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for ranking in each.values():
        for phase, heads in ranking.items():
            for head in heads:
                sums[phase][head["layer"], head["head"]].append((head["activity"], head["first"]))
    means = {
        phase: [
            dict(zip(("layer", "head", "activity", "first"), (*place, *np.mean(v, 0).tolist()), strict=True))
            for place, v in heads.items()
        ]
        for phase, heads in sums.items()
    }
    return {
        "all": {phase: sorted(heads, key=lambda head: -head["activity"]) for phase, heads in means.items()},
        "episodes": each,
    }
