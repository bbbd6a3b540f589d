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
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from foveate.data.droid.reader import Episode
from foveate.errors import FoveateError, unknown
from foveate.studies.attention.archive import MAPS, EpisodeMaps, Held, check_held, held_in
from foveate.studies.attention.clips import SCALES, Clip, Filming, clip_of, clips_of, film, is_fresh, keyframes_of
from foveate.studies.attention.pictures import Drawing, draw_keyframe, marker_text
from foveate.studies.attention.pipeline import MARKER, PARTIAL, Outcome, follow, threads_of
from foveate.studies.attention.reel import Reel, Scale
from foveate.types import Phase
from foveate.util.files import alone_in, fault_of, write_json, write_text
from foveate.util.progress import SILENT, Reporter
from foveate.util.run_folder import to_dict
from foveate.util.words import plural

RENDERED = "render.yaml"
"""How the pictures of a folder were drawn again, for the films of them."""


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
    scale: Scale = "frame"
    """Colour scale: each picture its own, or one for an episode's frames and heads of a layer."""
    workers: str = "2"
    """Threads that draw."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale not in SCALES:
            raise unknown("scale", self.scale, SCALES)


@dataclass(frozen=True, kw_only=True)
class VideoConfig(Filming):
    """Two kinds of video of every episode and layer: of its most active head, and of every head."""

    results: str
    """Folder of pictures, <outcome>/<date>/<episode>/00000/ and so on."""
    video_out: str = "results_video"
    """Folder of the videos."""
    layers: tuple[int, ...] = ()
    """Layers to film; without any, those that have pictures."""
    heads: tuple[int, ...] = ()
    """Heads to film; without any, all."""
    data_root: str | None = None
    """Folder of the episodes, whose pictures are drawn on; without one, where they were then."""
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
    for key in keys:
        check_held(held_in(results / key / MAPS), config.layers, config.heads, key)
    out.mkdir(parents=True, exist_ok=True)
    origin = {"results": str(results.resolve()), "data_root": str(root.resolve())}
    write_text(out / RENDERED, yaml.safe_dump({**to_dict(config), **origin}, sort_keys=False))
    with report.bar("episodes", "episodes", len(keys)) as bar:
        drawn = redraw(keys, results, root, out, config, threads_of(config.workers), config.scale)
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
    keys, source = pictured_episodes(results), source_of(results, config.data_root)
    plain = [key for key in keys if source is None or not source.has(key)]
    for key in keys:
        held = _pictured(results / key) if key in plain else held_in(source.maps / key / MAPS) if source else None
        check_held(held, config.layers, config.heads, key)
    if plain:
        report.warn(
            f"{len(plain)} of {plural(len(keys), 'episode')} filmed as they were drawn, each picture with its own "
            "scale and head: their maps or the camera's pictures are not there (--data_root says where these are)"
        )
    with report.bar("episodes", "episodes", len(keys)) as bar:
        filmed = film_all(
            keys, results, out, config, threads_of(config.workers), config.overwrite,
            source=source, layers=config.layers, heads=config.heads,
        )  # fmt: skip
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


@dataclass(frozen=True)
class Source:
    """What the pictures of a folder were drawn from."""

    maps: Path
    """Folder with <outcome>/<date>/<episode>/maps.npz."""
    data_root: Path
    drawing: Drawing

    def has(self, key: str) -> bool:
        return (self.maps / key / MAPS).exists() and (self.data_root / key).is_dir()


def source_of(results: Path, data_root: str | None = None) -> Source | None:
    """As the folder's own files tell; None where they do not.

    Args:
        data_root: where the episodes are now.
    """
    known: dict[str, Any] = {}
    for name in ("config.yaml", RENDERED):
        try:
            known |= yaml.safe_load((results / name).read_text())
        except (OSError, TypeError, ValueError, yaml.YAMLError):
            continue
    root = data_root or known.get("data_root")
    look = {field.name: known[field.name] for field in fields(Drawing) if field.name in known}
    look = {name: tuple(value) if isinstance(value, list) else value for name, value in look.items()}
    if not isinstance(root, str):
        return None
    try:
        drawing = Drawing(**{**look, "layers": (), "heads": ()})
    except (FoveateError, TypeError, ValueError):
        drawing = Drawing()
    own = any(results.glob(f"*/*/*/{MAPS}"))
    return Source(results if own else Path(str(known.get("results") or results)), Path(root), drawing)


def _pictured(folder: Path) -> Held | None:
    try:
        clips = clips_of(folder)
    except FoveateError:
        return None
    return sorted({c.layer for c in clips}), sorted({c.head for c in clips if c.head is not None})


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
    keys: Sequence[str],
    results: Path,
    data_root: Path,
    out: Path,
    drawing: Drawing,
    threads: int = 2,
    scale: Scale = "frame",
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
                _redraw(key, results, data_root, out, drawing, scale, pool, 2 * threads)
            except Exception as error:
                yield Outcome(key, "failed", fault_of(error, key))
                continue
            yield Outcome(key, "done")


def _redraw(
    key: str,
    results: Path,
    data_root: Path,
    out: Path,
    drawing: Drawing,
    scale: Scale,
    pool: ThreadPoolExecutor,
    ahead: int,
) -> None:
    stored = EpisodeMaps.load(results / key / MAPS)
    about, episode = stored.about, Episode(data_root / key, key.partition("/")[0])
    if not episode.folder.is_dir():
        raise FoveateError(f"episode {key}: its pictures are not in {data_root}; pass --data_root where they are now")
    beside = out != results
    folder = out / PARTIAL / key.replace("/", "__") if beside else results / key
    if beside:
        shutil.rmtree(folder, ignore_errors=True)
    most: dict[Phase, dict[int, float]] | None = None
    if scale == "episode":
        most = {phase: stored.most(phase, drawing.layers, drawing.heads) for phase in stored.maps}
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
                    crop=about.crop,
                    most=most,
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
    keys: Sequence[str],
    results: Path,
    out: Path,
    filming: Filming,
    threads: int = 2,
    overwrite: bool = False,
    *,
    source: Source | None = None,
    layers: Sequence[int] = (),
    heads: Sequence[int] = (),
) -> Iterator[Outcome]:
    """All videos of these episodes; what became of each. Videos newer than their pictures stay.

    Args:
        overwrite: make them again nevertheless.
        source: films are drawn anew from it; without, or where it lacks the episode, the pictures are filmed.
        layers: to film; empty: those that have pictures.
        heads: to film; empty: all.
    """
    with ThreadPoolExecutor(threads) as pool:
        for key in keys:
            folder, target = results / key, out / key
            try:
                clips, reel = _clips(folder, key, filming.scale, source, layers, heads)
                frames = keyframes_of(folder)
                todo = [c for c in clips if overwrite or not is_fresh(folder, target, c, filming, frames, reel)]
                if not todo:
                    yield Outcome(key, "skipped")
                    continue
                text = instruction_of(folder)
                target.mkdir(parents=True, exist_ok=True)
                if text:
                    (target / "instruction.txt").write_text(text + "\n", encoding="utf-8")
                for future in [pool.submit(film, folder, target, clip, filming, reel) for clip in todo]:
                    future.result()
            except Exception as error:
                yield Outcome(key, "failed", fault_of(error, key))
                continue
            yield Outcome(key, "done")


def _clips(
    folder: Path, key: str, scale: Scale, source: Source | None, layers: Sequence[int], heads: Sequence[int]
) -> tuple[list[Clip], Reel | None]:
    """The films to make of an episode, and what draws them; None: its pictures are filmed."""
    pictured = clips_of(folder)
    if source is None or not source.has(key):
        wanted = [c for c in pictured if not layers or c.layer in layers]
        return [c for c in wanted if not heads or c.head is None or c.head in heads], None
    stored, episode = EpisodeMaps.load(source.maps / key / MAPS), Episode(source.data_root / key, key.partition("/")[0])
    about = stored.about
    if layers or heads:
        chosen = tuple(layers) or tuple(dict.fromkeys(c.layer for c in pictured))
        each = (None, *(heads or about.heads))
        clips = [clip_of(phase, layer, head) for phase in stored.maps for layer in chosen for head in each]
    else:
        clips = [c for c in pictured if c.phase in stored.maps]
        chosen = tuple(dict.fromkeys(c.layer for c in clips))
    views = {view: episode.frames(camera, about.keyframes) for view, camera in about.views.items()}
    images = ({view: next(frames) for view, frames in views.items()} for _ in about.keyframes)
    return clips, Reel(stored, images, replace(source.drawing, layers=chosen, heads=tuple(heads)), scale)


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
