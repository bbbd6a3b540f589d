"""`foveate attn objects`: how much of the attention lies on objects, layer by layer, and how much would by chance.

    foveate attn objects EPISODE --maps results --masks EPISODE/recordings/masks --out objects     # pictures and videos
    foveate attn objects DATA_ROOT --maps results --out objects                                    # the aggregate

Maps are those that `foveate attn episodes` left in its results folder, so that no model is needed; with --policy they
are computed. Masks come from files, from the simulator's recording, or from a local detector. Exit status 1: some
episodes failed; each is named with its reason, the others are done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.errors import FoveateError
from foveate.types import Phase
from foveate.util.progress import ProgressBar

if TYPE_CHECKING:
    from rich.console import Console

    from foveate.data.droid.reader import Episode
    from foveate.data.masks.source import MaskSource
    from foveate.studies.attention.archive import EpisodeMaps
    from foveate.studies.attention.objects_run import Targets

SCHEMA = "foveate.objects/v1"
RECORDED = "recordings/masks"
"""Where `foveate eval sim --record droid --record_masks` leaves masks in an episode."""
MAY_CHANGE = ("data_root", "target", "device", "pictures")
"""Options that may differ when a run goes on: they change no episode's numbers."""


@dataclass(frozen=True)
class ObjectsConfig:
    """How much of the attention lies on objects: overlap, concentration and IoU, against shuffled and central maps."""

    data_root: str
    """DROID-format tree, or one episode folder of it; the bare word."""
    out: str = "runs/objects"
    """Folder of the results; the same command again goes on where it was interrupted."""
    maps: str | None = None
    """Results folder of `foveate attn episodes`."""
    policy: str | None = None
    """In place of --maps: checkpoint folder or shipped policy whose maps are computed; `--checkpoint` is the same."""
    masks: str | None = None
    """Masks of one episode (folder or COCO file), or a folder of them with the tree's <outcome>/<date>/<episode>
    below it; without, those that stand in each episode's recordings/masks."""
    detector: str | None = None
    """In place of masks: a zero-shot object detector that transformers can load; finds what --objects names."""
    min_score: float = 0.1
    """Of a detection, to be taken."""
    objects: tuple[str, ...] = ()
    """Names of the objects; none: all but the robot."""
    target: str = "any object"
    """Object of the aggregate; `any object` is the union of all."""
    layers: tuple[int, ...] = ()
    """Layers; none: all that the maps hold."""
    views: tuple[str, ...] = ()
    """Views, as the policy's observation names them; none: all."""
    phase: Phase = "prefix"
    """prefix: attention of the text; suffix: of the actions."""
    draws: int = 20
    """Shuffles of each map."""
    seed: int = 0
    """Of the shuffles, and of the noise where maps are computed."""
    pictures: bool | None = None
    """Pictures of each keyframe and layer, and a video per layer; unsaid: for one episode."""
    keyframe_interval: int = 8
    """With --policy: frames between two keyframes."""
    camera: str = "left"
    """With --policy: exterior camera, left (varied_camera_1) or right (varied_camera_2)."""
    device: str = "cpu"
    """With --policy and --detector: torch device."""

    def __post_init__(self) -> None:
        if (self.maps is None) == (self.policy is None):
            raise FoveateError(
                "whose maps? Give --maps DIR, the results of `foveate attn episodes`, or --policy to compute them"
            )
        if self.masks is not None and self.detector is not None:
            raise FoveateError("--masks and --detector both say where objects are; give one")
        if self.draws < 1:
            raise FoveateError(f"--draws: expected at least 1, got {self.draws}")


def objects(argv: list[str]) -> int:
    """The verb."""
    from rich.console import Console

    from foveate.cli.attn.fidelity import episodes_at
    from foveate.cli.config import parse
    from foveate.studies.attention.episodes import Outcome
    from foveate.studies.attention.objects_run import Targets
    from foveate.util.run_folder import check_same_config, write_run_files

    aliases = {"checkpoint": "policy", "pretrained_checkpoint": "policy"}
    config = parse(ObjectsConfig, argv, "foveate attn objects", aliases=aliases, positional=("data_root",))
    console, out = Console(), Path(config.out)
    found = episodes_at(Path(config.data_root))
    if any(out.rglob("metrics.json")):
        check_same_config(out, config, MAY_CHANGE)
    read_maps = _map_reader(config, console)
    read_masks = _mask_reader(config, alone=len(found) == 1)
    pictures = len(found) == 1 if config.pictures is None else config.pictures
    targets = Targets(config.objects, config.views, config.layers, config.phase, config.draws, config.seed)
    write_run_files(out, config, config.seed)
    outcomes, studied = [], []
    with ProgressBar(console, "objects", "episodes", len(found)) as bar:
        for episode in found:
            folder = out / episode.key
            try:
                fresh = _stale(folder, pictures)
                if fresh:
                    _study(episode, folder, read_maps(episode), read_masks(episode), targets, pictures)
                studied.append(json.loads((folder / "metrics.json").read_text()))
                outcomes.append(Outcome(episode.key, "done" if fresh else "skipped"))
            except FoveateError as error:
                if len(found) == 1:
                    raise
                outcomes.append(Outcome(episode.key, "failed", str(error)))
            bar.advance()
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        console.print(f"[red]failed:[/] {outcome.error}", highlight=False, soft_wrap=True)
    if not studied:
        raise FoveateError(f"none of the {len(found)} episodes could be studied; the reasons stand above")
    result = _aggregate(config, studied, out)
    for view in dict.fromkeys(row["view"] for row in result["rows"]):
        console.print(_table(result, view))
    counts = {s: sum(o.status == s for o in outcomes) for s in ("done", "skipped", "failed")}
    console.print(", ".join(f"{count} episodes {status}" for status, count in counts.items()))
    console.print(f"results: {out / 'objects.json'}, {out / 'objects.md'}", soft_wrap=True, highlight=False)
    return int(bool(failed))


def _stale(folder: Path, pictures: bool) -> bool:
    """Whether an episode is still to be studied, or to be drawn."""
    return not (folder / "metrics.json").exists() or (pictures and not any(folder.glob("*_objects.webm")))


def _study(
    episode: Episode, folder: Path, maps: EpisodeMaps, masks: MaskSource, targets: Targets, pictures: bool
) -> None:
    """Pictures, videos, and last of all `metrics.json`."""
    from foveate.studies.attention.objects_pictures import draw_objects, film_objects
    from foveate.studies.attention.objects_run import study_episode
    from foveate.util.files import write_json

    about, order = maps.about, []  # type: ignore[var-annotated]
    folder.mkdir(parents=True, exist_ok=True)

    def draw(frame: int, images: Any, found: Any, of_frame: Any) -> None:
        order.extend(name for masks in found.values() for name in masks if name not in order)
        draw_objects(folder / f"{frame:05d}", images, found, of_frame, about.model_hw, about.instruction, order)

    metrics = study_episode(maps, episode, masks, targets, draw if pictures else None)
    if pictures:
        film_objects(folder, about.keyframes, targets.phase, metrics["layers"])
    write_json(folder / "metrics.json", {"schema": SCHEMA, **metrics}, indent=None)


def _map_reader(config: ObjectsConfig, console: Console) -> Callable[[Episode], EpisodeMaps]:
    from foveate.studies.attention.archive import MAPS, EpisodeMaps

    if config.maps is None:
        with console.status("loading the policy"):
            return _computed(config)
    root = Path(config.maps)

    def read(episode: Episode) -> EpisodeMaps:
        path = root / episode.key / MAPS
        if not path.exists():
            raise FoveateError(
                f"episode {episode.key}: no maps in {path.parent}; run `foveate attn episodes ... --out {root}` first, "
                "or give --policy"
            )
        return EpisodeMaps.load(path)

    return read


def _computed(config: ObjectsConfig) -> Callable[[Episode], EpisodeMaps]:
    """Computes the maps of an episode as `foveate attn episodes` does."""
    from foveate.cli.attn.episodes import EpisodesConfig, make_pipeline

    return make_pipeline(
        EpisodesConfig(
            data_root=config.data_root,
            policy=str(config.policy),
            out=config.out,
            video_out="none",
            layers=config.layers or (0,),
            keep="drawn" if config.layers else "all",
            phases=(config.phase,),
            keyframe_interval=config.keyframe_interval,
            camera=config.camera,
            seed=config.seed,
            device=config.device,
        )
    ).maps_of


def _mask_reader(config: ObjectsConfig, alone: bool) -> Callable[[Episode], MaskSource]:
    """Episode -> its masks.

    Args:
        alone: there is one episode, whose masks --masks may name directly.
    """
    from foveate.data.masks.detector import DetectorMasks
    from foveate.data.masks.source import open_masks

    if config.detector is not None:
        detector = DetectorMasks(config.detector, config.objects, config.min_score, config.device)
        return lambda episode: detector

    def read(episode: Episode) -> MaskSource:
        if config.masks is None:
            if not (folder := episode.folder / RECORDED).is_dir():
                raise FoveateError(
                    f"episode {episode.key}: no masks in {RECORDED}; name them with --masks, find objects with "
                    "--detector, or record simulated episodes with --record_masks"
                )
            return open_masks(folder)
        root = Path(config.masks)
        named = [path for path in (root / episode.key, root / f"{episode.key}.json") if path.exists()]
        if not named and not alone:
            raise FoveateError(f"episode {episode.key}: no masks: neither {root / episode.key} nor that name + .json")
        return open_masks(named[0] if named else root)

    return read


def _aggregate(config: ObjectsConfig, studied: Sequence[dict[str, Any]], out: Path) -> dict[str, Any]:
    """`objects.json`, `objects.md` and `objects.png` over all episodes."""
    from foveate.attention.objects_aggregate import aggregate
    from foveate.studies.attention.objects_run import DIGITS
    from foveate.util.files import nan_to_null, write_json, write_text
    from foveate.util.provenance import provenance
    from foveate.util.run_folder import to_dict
    from foveate.viz.report.objects import draw_curves, to_markdown

    result = {
        "schema": SCHEMA,
        "policy": ", ".join(dict.fromkeys(str(e["policy"]) for e in studied)),
        "target": config.target,
        "phase": config.phase,
        "episodes": [{key: e[key] for key in ("episode", "outcome", "objects", "pictures")} for e in studied],
        "rows": nan_to_null(aggregate(studied, config.target), DIGITS),
        "config": to_dict(config),
        **provenance(),
    }
    write_json(out / "objects.json", result)
    write_text(out / "objects.md", to_markdown(result))
    draw_curves(result, out / "objects.png")
    return result


def _table(result: dict[str, Any], view: str) -> Any:
    """A row per layer: each metric with its null."""
    from rich.table import Table

    from foveate.attention.objects import METRICS
    from foveate.viz.report.objects import number

    count = len(result["episodes"])
    caption = f"mean over {count} episodes, {result['target']}; in brackets: the same map shuffled"
    table = Table(title=f"{view}, {result['phase']}", caption=caption)
    table.add_column("layer", justify="right")
    for metric in METRICS:
        table.add_column(metric, justify="right", no_wrap=True)
    table.add_column("p (overlap)", justify="right", no_wrap=True)
    rows = {(row["layer"], row["metric"]): row for row in result["rows"] if row["view"] == view}
    for layer in dict.fromkeys(layer for layer, _ in rows):
        cells = [f"{number(rows[layer, m]['mean'])} ({number(rows[layer, m]['shuffled'])})" for m in METRICS]
        table.add_row(str(layer), *cells, number(rows[layer, "overlap"]["p_holm"]))
    return table
