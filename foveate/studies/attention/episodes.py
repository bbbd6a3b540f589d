"""Attention of every keyframe of a DROID-format tree, as maps, pictures and videos.

    outcomes = attend_episodes(EpisodesConfig(policy="pi05_droid", data_root="toy_cube_benchmark", out="results"))

It may be interrupted; the same call again goes on. `maps_reader` gives the maps of single episodes and writes nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from foveate.data.droid.reader import Episode, cameras_of, find_episodes
from foveate.errors import FoveateError, unknown
from foveate.evaluation.scene import load_for_droid
from foveate.policy import LoadOptions, Policy
from foveate.studies.attention.archive import EpisodeMaps
from foveate.studies.attention.clips import Filming
from foveate.studies.attention.pictures import Drawing
from foveate.studies.attention.pipeline import Attend, Outcome, Pipeline, Plan, Reading, follow, is_done, threads_of
from foveate.types import AttentionMaps, AttentionRequest, Observation, Phase
from foveate.util.files import alone_in, write_json
from foveate.util.noise import action_noise, stack_noise
from foveate.util.progress import SILENT, Reporter
from foveate.util.run_folder import check_same_config, write_run_files
from foveate.util.words import plural

MAY_CHANGE = ("data_root", "out", "workers", "batch", "device")
"""Options that may differ when a run goes on: they change no result."""


@dataclass(frozen=True, kw_only=True)
class EpisodesConfig(Drawing, Filming, LoadOptions):
    """Attention of a policy over the episodes of a DROID-format tree: maps, pictures and videos of every keyframe."""

    data_root: str
    """Folder with success/<date>/<episode>/ and failure/<date>/<episode>/."""
    out: str = "results"
    """Folder of pictures and maps."""
    video_out: str = "results_video"
    """Folder of the videos; none: make none."""
    layers: tuple[int, ...] = (1, 4, 5, 7, 10)
    """Layers to draw; negative ones count from the last."""
    heads: tuple[int, ...] = ()
    """Heads whose maps are computed; without any, all."""
    phases: tuple[str, ...] = ("prefix",)
    """prefix: the text looks at the image; suffix: the actions do, mean over the denoising steps."""
    keep: str = "all"
    """Layers whose maps are kept for `foveate attn render`: all of the model, or drawn."""
    keyframe_interval: int = 8
    """Frames between two inferences, as in an open-loop run."""
    camera: str = "left"
    """Exterior camera: left (varied_camera_1) or right (varied_camera_2)."""
    stereo: Literal["left", "right"] | None = None
    """Whose picture of a stereo recording (`<serial>-stereo.mp4`): left or right; None: left."""
    workers: str = "2"
    """Threads that draw and encode beside the inference; `ray`: one policy per worker of a Ray cluster."""
    batch: int = 4
    """Keyframes per inference."""
    robot: str | None = None
    """Robot mapping, by name or as a YAML file; without one, what the checkpoint says, or else droid."""
    seed: int = 0
    """Seed of the noise that actions are denoised from; each frame has its own, the same in every run."""

    def __post_init__(self) -> None:
        for base in (Drawing, Filming, LoadOptions):
            base.__post_init__(self)
        for name, value, known in (
            ("camera", self.camera, ("left", "right")),
            ("keep", self.keep, ("all", "drawn")),
            *(("phase", phase, ("prefix", "suffix")) for phase in self.phases),
        ):
            if value not in known:
                raise unknown(name, value, known)
        for name, number in (("keyframe_interval", self.keyframe_interval), ("batch", self.batch)):
            if number < 1:
                raise FoveateError(f"--{name}: expected at least 1, got {number}")
        if not self.layers or not self.phases:
            raise FoveateError("--layers and --phases: give at least one of each, for instance --layers 1,4,5")
        if self.workers != "ray":
            threads_of(self.workers)

    @property
    def video_folder(self) -> Path | None:
        return None if self.video_out.lower() in ("", "none") else Path(self.video_out)


@alone_in(lambda config: config.video_folder, "making videos")
@alone_in(lambda config: Path(config.out), "computing attention")
def attend_episodes(config: EpisodesConfig, report: Reporter = SILENT, policy: Policy | None = None) -> list[Outcome]:
    """Work through the tree, and write `episodes.json` with what became of each episode; failed ones do not stop it.

    Args:
        policy: loaded as `config` says; None: it is loaded. Workers of a cluster load their own.
    Raises:
        FoveateError: there is no episode, a layer or head does not exist, or the folder holds a run with other options.
    """
    out, found = Path(config.out), find_episodes(config.data_root)
    done = [episode for episode in found if is_done(out, episode)]
    if done:
        films = config.video_folder
        moved = films is not None and all((films / episode.key).is_dir() for episode in done)
        check_same_config(out, config, (*MAY_CHANGE, "video_out") if moved else MAY_CHANGE)
    todo = [episode for episode in found if episode not in done]
    outcomes = [Outcome(episode.key, "skipped") for episode in done]
    if todo:
        total = sum(_count_keyframes(episode, config.keyframe_interval) for episode in todo)
        with report.bar("keyframes", "keyframes", total, facts="loading the policy") as bar:
            outcomes += follow(_work(config, todo, bar.advance, policy), bar, len(found), len(done))
    write_json(out / "episodes.json", [asdict(outcome) for outcome in outcomes])
    return outcomes


def maps_reader(config: EpisodesConfig, policy: Policy | None = None) -> Callable[[Episode], EpisodeMaps]:
    """Computes the maps of an episode, and writes nothing."""
    return _make_pipeline(config, policy=policy).maps_of


def _work(
    config: EpisodesConfig, todo: Sequence[Episode], tick: Callable[[int], None], policy: Policy | None
) -> Iterator[Outcome]:
    if config.workers == "ray":
        from foveate.util.cluster import over_ray

        write_run_files(config.out, config, config.seed)
        moved = [replace(episode, folder=episode.folder.resolve()) for episode in todo]
        for episode, outcome in over_ray(_make_worker, config, moved, device=config.device, option="--workers"):
            if outcome.status != "failed":
                tick(_count_keyframes(episode, config.keyframe_interval))
            yield outcome
        return
    pipeline = _make_pipeline(config, tick, policy)
    write_run_files(config.out, config, config.seed)
    yield from pipeline(todo)


def _make_worker(config: EpisodesConfig) -> Callable[[Episode], Outcome]:
    """One policy in a process of a cluster, for one episode at a time."""
    pipeline = _make_pipeline(config)

    def work(episode: Episode) -> Outcome:
        (outcome,) = pipeline([episode])
        return outcome

    return work


def _make_pipeline(
    config: EpisodesConfig, tick: Callable[[int], None] = lambda count: None, policy: Policy | None = None
) -> Pipeline:
    """Load the policy and check everything that does not depend on an episode."""
    policy = policy or load_for_droid(config)
    spec = policy.spec
    drawn = tuple(dict.fromkeys(_number("layer", layer, spec.depth) for layer in config.layers))
    heads = tuple(dict.fromkeys(_number("head", head, spec.heads) for head in config.heads)) or range(spec.heads)
    reading = Reading(
        cameras=cameras_of(spec.views, config.camera, config.stereo),  # type: ignore[arg-type]  # checked in the config
        state=spec.state,
        views={view: names[0] for view, names in spec.cameras.items() if names and names[0] in spec.views},
        model_hw=(spec.image_size, spec.image_size),
        policy=spec.name,
        layers=tuple(range(spec.depth)) if config.keep == "all" else drawn,
        heads=tuple(heads),
        crop=spec.crop,
    )
    plan = Plan(
        keyframe_interval=config.keyframe_interval,
        batch=config.batch,
        seed=config.seed,
        drawing=replace(config, layers=drawn, heads=()),
        filming=config if config.video_folder else None,
    )
    threads = 1 if config.workers == "ray" else threads_of(config.workers)
    attend = _attend(config, policy, reading)
    return Pipeline(attend, reading, plan, Path(config.out), config.video_folder, threads, tick)


def _number(kind: str, number: int, count: int) -> int:
    """Counted from 0."""
    if not -count <= number < count:
        raise FoveateError(
            f"--{kind}s: {kind} {number} does not exist; the model has {plural(count, kind)}, 0 to {count - 1}: "
            f"choose among them, for instance --{kind}s {','.join(map(str, range(count)[-3:]))}"
        )
    return number % count


def _attend(config: EpisodesConfig, policy: Policy, reading: Reading) -> Attend:
    request = AttentionRequest(layers=reading.layers, phases=config.phases, heads=reading.heads)  # type: ignore[arg-type]

    def attend(
        places: Sequence[tuple[str, int]], observations: Sequence[Observation]
    ) -> list[Mapping[Phase, AttentionMaps]]:
        keys = [(config.seed, zlib.crc32(episode.encode()), frame) for episode, frame in places]
        noise = stack_noise([action_noise(policy.spec.noise_shape, *key) for key in keys])
        return [maps for _, maps in policy.attend(observations, request, noise)]

    return attend


def _count_keyframes(episode: Episode, interval: int) -> int:
    """0 where the episode cannot be read: it will be reported when it is its turn."""
    try:
        return len(range(0, episode.rows, interval))
    except Exception:
        return 0
