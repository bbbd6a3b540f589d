"""Are the attention maps true? Cover what they mark in many frames, and see whether the actions care.

    done = study_fidelity(FidelityConfig(policy="metaworld_tiny", data_root="runs/reach/droid"))
    done.result["rankings"]["both"][0]["layer"]          # the layer whose map tells most of what the actions hang on

Writes `frames.jsonl` (what was measured in each frame; a run that is started again goes on behind it),
`fidelity.json`, `fidelity.md`, `index.html` and `pictures/`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from foveate.attention.fidelity import rank, summarise, summarise_curves
from foveate.attention.fidelity_pruner import summarise_pruner
from foveate.data.droid.reader import Episode, cameras_of, episodes_at
from foveate.errors import FoveateError
from foveate.evaluation.scene import load_for_droid, read_frame, read_observation
from foveate.policy import LoadOptions, Policy
from foveate.studies.attention.kept_patches import measure_pruner
from foveate.studies.attention.occlusion import (
    CURVE_DRAWS,
    Frame,
    FrameEffects,
    OcclusionConfig,
    occlude,
    source_name,
)
from foveate.studies.attention.scene import layers_of
from foveate.types import Observation
from foveate.util.checks import instruction
from foveate.util.choices import name_of
from foveate.util.files import JsonLines, alone_in, fault_of, nan_to_null, write_json
from foveate.util.progress import SILENT, Reporter
from foveate.util.provenance import provenance
from foveate.util.run_folder import check_same_config, to_dict, write_run_files
from foveate.util.words import plural
from foveate.viz.attention import save_jpeg
from foveate.viz.fidelity_pictures import stack, strip
from foveate.viz.plots import spread
from foveate.viz.report.fidelity import write_reports

SCHEMA = "foveate.fidelity/v1"
MAY_CHANGE = ("episodes", "frames_per_episode", "pictures", "batch", "device", "data_root")
"""Options that may differ when a run goes on: they change no frame's numbers."""


@dataclass(frozen=True, kw_only=True)
class FidelityConfig(OcclusionConfig, LoadOptions):
    """Are the maps true? Cover what they mark in the pictures, and compare the actions with those of random covers."""

    data_root: str | None = None
    """DROID-format tree, or one episode folder; the bare word. In place of it: --episode, or --image and --prompt."""
    out: str = "runs/fidelity"
    """Folder of the results; the same command again goes on where it was interrupted."""
    episodes: int | None = None
    """Episodes at most, evenly over the tree; None: all."""
    frames_per_episode: int = 4
    """Keyframes of each episode at most, evenly over it."""
    keyframe_interval: int = 8
    """Frames between two keyframes."""
    camera: Literal["left", "right"] = "left"
    """Side camera of a DROID folder: left is varied_camera_1, right varied_camera_2."""
    stereo: Literal["left", "right"] | None = None
    """Whose picture of a stereo recording (`<serial>-stereo.mp4`): left or right; None: left."""
    episode: str | None = None
    """In place of a tree: a DROID-format episode folder, of which one frame is tested."""
    frame: int = 0
    """Frame of --episode."""
    image: tuple[str, ...] = ()
    """Without a tree: a picture per view, `view=path`, or paths in the order of the policy's views."""
    prompt: str | None = None
    """Without a tree: the instruction."""
    state: tuple[float, ...] = ()
    """Without a tree: the robot's state; zeros where none is given."""
    metric: Literal["mse", "si_mse", "scale", "direction"] = "si_mse"
    """Measure that layers are ranked by; all are in the results."""
    pictures: int = 3
    """Frames whose covered pictures are shown in the report."""

    def __post_init__(self) -> None:
        OcclusionConfig.__post_init__(self)
        LoadOptions.__post_init__(self)
        given = [bool(self.data_root), bool(self.episode), bool(self.image)]
        if sum(given) != 1:
            raise FoveateError(
                "what is to be tested? Give either a DROID-format tree, or --episode (with --frame), or --image and "
                "--prompt"
            )
        if self.image or self.prompt is not None:
            instruction("--prompt", self.prompt)
        if self.frame and not self.episode:
            raise FoveateError("--frame: of which episode? Name its folder with --episode")
        for name in ("frames_per_episode", "keyframe_interval"):
            if getattr(self, name) < 1:
                raise FoveateError(f"--{name}: expected at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Fidelity:
    """What all frames showed."""

    folder: Path
    result: dict[str, Any]
    """The content of `fidelity.json`."""
    failed: dict[str, str]
    """Episode that could not be read -> the reason."""


@alone_in(lambda config: Path(config.out), "testing maps")
def study_fidelity(config: FidelityConfig, report: Reporter = SILENT, policy: Policy | None = None) -> Fidelity:
    """Test what the folder lacks, and write results and reports over all frames.

    Args:
        policy: loaded as `config` says; None: it is loaded.
    Raises:
        FoveateError: not one frame can be read, a layer or view does not exist, or the folder holds a run with other
            options.
    """
    out = Path(config.out)
    if (out / "frames.jsonl").exists():
        check_same_config(out, config, MAY_CHANGE)
    if policy is None:
        with report.status("loading the policy"):
            policy = load_for_droid(config) if config.data_root or config.episode else config.load()
    occlusion = replace(config, layers=_resolved(config.layers, policy.spec.depth))
    moments, failed = _moments(config, policy, report)
    write_run_files(out, config, config.seed)
    log = JsonLines(out / "frames.jsonl", lambda row: (row["episode"], row["frame"]))
    for row in log.dropped:
        report.warn(f"{log.path.name}: {row['episode']} frame {row['frame']} was there twice; the first one counts")
    done = {(row["episode"], row["frame"]) for row in log.rows}
    shown = set(spread([moment[:2] for moment in moments], config.pictures))
    before = sum(moment[:2] in done for moment in moments)
    with report.bar("fidelity", "frames", len(moments), before) as bar:
        for episode, index, read in moments:
            if (episode, index) in done or episode in failed:
                continue
            try:
                frame = Frame(episode, index, read())
                effects = occlude(policy, frame, occlusion)
                row = {"episode": episode, "frame": index, "effects": effects.effects, "curves": effects.curves}
                row["pruner"] = measure_pruner(policy, frame, occlusion)
                if (episode, index) in shown:
                    _draw(effects, frame, policy, occlusion.views[0], out / "pictures")
            except Exception as error:
                failed[episode] = fault_of(error, f"{episode}, frame {index}")
                continue
            log.append([row])  # after the pictures: a frame in the log lacks nothing
            bar.advance()
    for text in failed.values():
        report.fail("failed", text)
    wanted = {moment[:2] for moment in moments}
    rows = [row for row in log.rows if (row["episode"], row["frame"]) in wanted]
    if not rows:
        raise FoveateError(f"not one frame could be tested: {next(iter(failed.values()))}")
    result = _summary(config, occlusion, policy, rows)
    write_json(out / "fidelity.json", result)
    write_reports(result, sorted((out / "pictures").glob("*.jpg")), out)
    return Fidelity(out, result, failed)


def _resolved(layers: Sequence[int], depth: int) -> tuple[int, ...]:
    """Counted from 0."""
    asked = layers_of(layers, depth)
    for layer in asked:
        if not -depth <= layer < depth:
            raise FoveateError(f"--layers {layer}: the model has {plural(depth, 'layer')}, 0 to {depth - 1}")
    return tuple(dict.fromkeys(layer % depth for layer in asked))


def _summary(
    config: FidelityConfig, occlusion: OcclusionConfig, policy: Policy, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    def flat(name: str) -> list[dict[str, Any]]:
        return [{"episode": row["episode"], **part} for row in rows for part in row[name]]

    summary = summarise(flat("effects"))
    pruned = [{"episode": row["episode"], **row["pruner"]} for row in rows if row["pruner"]]
    method = name_of(type(policy.pruner.config)) if policy.pruner else None
    plan = {field.name: getattr(occlusion, field.name) for field in fields(OcclusionConfig)}
    result = {
        "schema": SCHEMA,
        "policy": policy.spec.name,
        "frames": len(rows),
        "episodes": len({row["episode"] for row in rows}),
        "metric": config.metric,
        "views": list(config.views),
        "plan": to_dict({**plan, "curve_draws": CURVE_DRAWS}),
        "rankings": {choice: rank(summary, choice, config.metric) for choice in config.views},
        "summary": summary,
        "curves": summarise_curves(flat("curves")),
        "pruner": {"name": method, **summarise_pruner(pruned)} if pruned else None,
        "config": to_dict(config),
        **provenance(),
    }
    found: dict[str, Any] = nan_to_null(result)
    return found


Moment = tuple[str, int, Callable[[], Observation]]
"""Episode, frame, and what reads its observation."""


def _moments(config: FidelityConfig, policy: Policy, report: Reporter) -> tuple[list[Moment], dict[str, str]]:
    """Every frame to be tested, and the episodes that cannot be read, with the reason."""
    if config.episode is not None:
        (source,) = episodes_at(config.episode)
        seen = read_frame(config.episode, config.frame, config.camera, config.prompt or None, policy, config.stereo)
        return [(source.key, config.frame, lambda: seen)], {}
    if config.data_root is None:
        prompt = instruction("--prompt", config.prompt)
        observation = read_observation(config.image, config.state, prompt, policy, report)
        return [("picture", 0, lambda: observation)], {}
    cameras, parts = cameras_of(policy.spec.views, config.camera, config.stereo), policy.spec.state

    def read(episode: Episode, index: int) -> Observation:
        return next(episode.observations([index], cameras, parts))[1]

    moments: list[Moment] = []
    failed: dict[str, str] = {}
    for episode in spread(episodes_at(config.data_root), config.episodes):
        try:
            keyframes = range(0, episode.rows, config.keyframe_interval)
        except Exception as error:
            failed[episode.key] = fault_of(error, episode.key)
            continue
        for index in spread(keyframes, config.frames_per_episode):
            moments.append((episode.key, index, functools.partial(read, episode, index)))
    if not moments:
        raise FoveateError(next(iter(failed.values())))
    return moments, failed


def _draw(effects: FrameEffects, frame: Frame, policy: Policy, choice: str, folder: Path) -> None:
    """One picture per layer: what was covered of a choice of views."""
    folder.mkdir(parents=True, exist_ok=True)
    images, model_hw = frame.observation.images, (policy.spec.image_size, policy.spec.image_size)
    for layer, maps in effects.maps.items():
        covered = effects.covered[choice, layer]
        shown = {kind: effects.show(covered[kind]).images for kind in ("high", "random", "low")}
        strips: list[np.ndarray] = []
        most = max(float(np.nanmax(maps[view])) for view in covered["high"])
        for view in covered["high"]:
            name = source_name(policy.spec.cameras, view, images)
            title = f"layer {layer} · {name} · {frame.episode.rpartition('/')[2]}, frame {frame.index}"
            pictures = {kind: seen[name] for kind, seen in shown.items()}
            strips.append(strip(images[name], maps[view], pictures, model_hw, title, most, policy.spec.crop))
        stem = f"{frame.episode.replace('/', '_')}__frame{frame.index:05d}__L{layer:02d}"
        save_jpeg(folder / f"{stem}.jpg", stack(strips), 88)
