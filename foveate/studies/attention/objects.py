"""How much of the attention lies on objects, layer by layer, and how much would by chance.

    done = study_objects(ObjectsConfig(data_root="runs/reach/droid", maps="results"))
    done.result["rows"][0]["gain"]              # more than the shuffled map, mean over episodes

Maps are those that `studies.attention.episodes` left in its results folder, so that no model is needed; with a policy
they are computed. Masks come from files, from the simulator's recording, or from a local detector.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from foveate.attention.objects_aggregate import aggregate
from foveate.data.droid.reader import Episode, episodes_at
from foveate.data.masks.detector import DetectorMasks
from foveate.data.masks.source import MaskSource, open_masks
from foveate.errors import FoveateError
from foveate.studies.attention.archive import MAPS, EpisodeMaps, check_held, held_in
from foveate.studies.attention.overlap import DIGITS, Targets, measure_episode
from foveate.studies.attention.pipeline import Outcome
from foveate.util.files import alone_in, fault_of, nan_to_null, write_json, write_text
from foveate.util.progress import SILENT, Reporter
from foveate.util.provenance import provenance
from foveate.util.run_folder import check_same_config, to_dict, write_run_files
from foveate.viz.report.objects import draw_curves, to_markdown

SCHEMA = "foveate.objects/v1"
RECORDED = "recordings/masks"
"""Where `foveate eval sim --record droid --record_masks` leaves masks in an episode."""
MAY_CHANGE = ("data_root", "target", "device", "pictures")
"""Options that may differ when a run goes on: they change no episode's numbers."""


@dataclass(frozen=True, kw_only=True)
class ObjectsConfig(Targets):
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
    """Score from which on a detection is taken, 0 to 1."""
    target: str = "any object"
    """Object of the aggregate; `any object` is the union of all."""
    pictures: bool | None = None
    """Pictures of each keyframe and layer, and a video per layer; unsaid: for one episode."""
    keyframe_interval: int = 8
    """With --policy: frames between two keyframes."""
    camera: str = "left"
    """With --policy: exterior camera, left (varied_camera_1) or right (varied_camera_2)."""
    stereo: Literal["left", "right"] | None = None
    """With --policy: whose picture of a stereo recording (`<serial>-stereo.mp4`): left or right; None: left."""
    device: str = "cpu"
    """With --policy and --detector: torch device."""

    def __post_init__(self) -> None:
        if (self.maps is None) == (self.policy is None):
            raise FoveateError(
                "whose maps? Give --maps DIR, the results of `foveate attn episodes`, or --policy to compute them"
            )
        if self.masks is not None and self.detector is not None:
            raise FoveateError("--masks and --detector both say where objects are; give one")
        super().__post_init__()


@dataclass(frozen=True)
class ObjectsStudied:
    """What all episodes showed."""

    folder: Path
    result: dict[str, Any]
    """The content of `objects.json`."""
    outcomes: list[Outcome]


@alone_in(lambda config: Path(config.out), "studying objects")
def study_objects(config: ObjectsConfig, report: Reporter = SILENT) -> ObjectsStudied:
    """Measure what the folder lacks; write `metrics.json` of each episode, and `objects.json, .md, .png` over all.

    Raises:
        FoveateError: the one episode, or all of several, cannot be studied, or the folder holds a run with other
            options.
    """
    out, found = Path(config.out), episodes_at(config.data_root)
    if any(out.rglob("metrics.json")):
        check_same_config(out, config, MAY_CHANGE)
    read_maps = _map_reader(config, found, report)
    read_masks = _mask_reader(config, alone=len(found) == 1)
    pictures = len(found) == 1 if config.pictures is None else config.pictures
    write_run_files(out, config, config.seed)
    outcomes, studied = [], []
    with report.bar("objects", "episodes", len(found)) as bar:
        for episode in found:
            folder = out / episode.key
            try:
                fresh = _is_stale(folder, pictures)
                if fresh:
                    folder.mkdir(parents=True, exist_ok=True)
                    drawn = folder if pictures else None
                    metrics = measure_episode(read_maps(episode), episode, read_masks(episode), config, drawn)
                    write_json(folder / "metrics.json", {"schema": SCHEMA, **metrics}, indent=None)
                studied.append(json.loads((folder / "metrics.json").read_text()))
                outcomes.append(Outcome(episode.key, "done" if fresh else "skipped"))
            except Exception as error:
                outcomes.append(Outcome(episode.key, "failed", fault_of(error, episode.key)))
                if len(found) == 1:
                    raise
            bar.advance()
    for outcome in outcomes:
        if outcome.status == "failed":
            report.fail("failed", outcome.error)
    if not studied:
        raise FoveateError(f"none of the {len(found)} episodes could be studied; the reasons stand above")
    result = _summary(config, studied)
    write_json(out / "objects.json", result)
    write_text(out / "objects.md", to_markdown(result))
    draw_curves(result, out / "objects.png")
    return ObjectsStudied(out, result, outcomes)


def _is_stale(folder: Path, pictures: bool) -> bool:
    """Whether an episode is still to be studied, or to be drawn."""
    return not (folder / "metrics.json").exists() or (pictures and not any(folder.glob("*_objects.webm")))


def _summary(config: ObjectsConfig, studied: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "policy": ", ".join(dict.fromkeys(str(e["policy"]) for e in studied)),
        "target": config.target,
        "phase": config.phase,
        "episodes": [{key: e[key] for key in ("episode", "outcome", "objects", "pictures")} for e in studied],
        "rows": nan_to_null(aggregate(studied, config.target), DIGITS),
        "config": to_dict(config),
        **provenance(),
    }


def _map_reader(
    config: ObjectsConfig, episodes: Sequence[Episode], report: Reporter
) -> Callable[[Episode], EpisodeMaps]:
    if config.maps is None:
        with report.status("loading the policy"):
            return _computed(config)
    root = Path(config.maps)
    for episode in episodes:
        check_held(held_in(root / episode.key / MAPS), config.layers, (), episode.key)

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
    # Imported here: stored maps are studied without torch.
    from foveate.studies.attention.episodes import EpisodesConfig, maps_reader

    return maps_reader(
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
            stereo=config.stereo,
            seed=config.seed,
            device=config.device,
        )
    )


def _mask_reader(config: ObjectsConfig, alone: bool) -> Callable[[Episode], MaskSource]:
    """Episode -> its masks.

    Args:
        alone: there is one episode, whose masks `masks` may name directly.
    """
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
