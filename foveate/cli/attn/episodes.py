"""`foveate attn episodes`: attention of every keyframe of a DROID-format tree, as maps, pictures and videos.

    foveate attn episodes toy_cube_benchmark --policy pi05_droid --out results --video_out results_video

It may be interrupted; the same command again goes on. Exit status 1: some episodes failed; each is named with its
reason, the others are done.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.cli.attn.options import EpisodeBar, FilmOptions, LookOptions, load_on_tree, report, threads_of
from foveate.errors import FoveateError, unknown
from foveate.policy import LoadOptions

if TYPE_CHECKING:
    from foveate.data.droid.reader import Episode
    from foveate.policy import Policy
    from foveate.studies.attention.episodes import Outcome, Pipeline, Reading

MAY_CHANGE = ("data_root", "out", "workers", "batch", "device")
"""Options that may differ when a run goes on: they change no result."""


@dataclass(frozen=True, kw_only=True)
class EpisodesConfig(LookOptions, FilmOptions, LoadOptions):
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
    """Heads to look at; without any, all."""
    phases: tuple[str, ...] = ("prefix",)
    """prefix: the text looks at the image; suffix: the actions do, mean over the denoising steps."""
    keep: str = "all"
    """Layers whose maps are kept for `foveate attn render`: all of the model, or drawn."""
    keyframe_interval: int = 8
    """Every so many frames the policy looks, as in an open-loop run."""
    camera: str = "left"
    """Exterior camera: left (varied_camera_1) or right (varied_camera_2)."""
    workers: str = "2"
    """Threads that draw and encode beside the inference; `ray`: one policy per worker of a Ray cluster."""
    batch: int = 4
    """Keyframes per inference."""
    robot: str | None = None
    """Robot mapping, by name or as a YAML file; without one, what the checkpoint says, or else droid."""
    seed: int = 0
    """Of the noise that actions are denoised from; each frame has its own, the same in every run."""

    def __post_init__(self) -> None:
        super().__post_init__()
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


def episodes(argv: list[str]) -> int:
    """The verb: policy and data in, pictures, maps and videos out."""
    from rich.console import Console

    from foveate.cli.config import parse
    from foveate.data.droid.reader import find_episodes
    from foveate.studies.attention.episodes import Outcome, is_done
    from foveate.util.run_folder import check_same_config

    aliases = {"checkpoint": "policy", "pretrained_checkpoint": "policy"}
    config: EpisodesConfig = parse(
        EpisodesConfig, argv, "foveate attn episodes", aliases=aliases, positional=("data_root",)
    )
    console, out = Console(), Path(config.out)
    found = find_episodes(config.data_root)
    done = [episode for episode in found if is_done(out, episode)]
    if done:
        check_same_config(out, config, MAY_CHANGE)
    todo = [episode for episode in found if episode not in done]
    outcomes = [Outcome(episode.key, "skipped") for episode in done]
    if todo:
        total = sum(_count_keyframes(episode, config.keyframe_interval) for episode in todo)
        with EpisodeBar(console, "keyframes", total, len(found), len(done), "loading the policy") as bar:
            for outcome in _work(config, todo, bar.advance):
                outcomes.append(outcome)
                bar.ended(outcome)
    return report(console, out, outcomes, config.video_folder)


def _work(config: EpisodesConfig, todo: Sequence[Episode], tick: Callable[[int], None]) -> Iterator[Outcome]:
    from foveate.util.run_folder import write_run_files

    if config.workers == "ray":
        from foveate.util.cluster import over_ray

        write_run_files(config.out, config, config.seed)
        moved = [replace(episode, folder=episode.folder.resolve()) for episode in todo]
        for episode, outcome in over_ray(_make_worker, config, moved, device=config.device, option="--workers"):
            if outcome.status != "failed":
                tick(_count_keyframes(episode, config.keyframe_interval))
            yield outcome
        return
    pipeline = make_pipeline(config, tick)
    write_run_files(config.out, config, config.seed)
    yield from pipeline(todo)


def _make_worker(config: EpisodesConfig) -> Callable[[Episode], Outcome]:
    """One policy in a process of a cluster, for one episode at a time."""
    pipeline = make_pipeline(config)

    def work(episode: Episode) -> Outcome:
        (outcome,) = pipeline([episode])
        return outcome

    return work


def make_pipeline(config: EpisodesConfig, tick: Callable[[int], None] = lambda count: None) -> Pipeline:
    """Load the policy and check everything that does not depend on an episode."""
    from foveate.studies.attention.episodes import Pipeline, Plan

    policy = load_on_tree(config)
    drawn, reading = _reading(config, policy)
    plan = Plan(
        keyframe_interval=config.keyframe_interval,
        batch=config.batch,
        seed=config.seed,
        drawing=config.drawing(drawn, ()),
        filming=config.filming() if config.video_folder else None,
    )
    threads = 1 if config.workers == "ray" else threads_of(config.workers)
    look = _looker(config, policy, reading)
    return Pipeline(look, reading, plan, Path(config.out), config.video_folder, threads, tick)


def _reading(config: EpisodesConfig, policy: Policy) -> tuple[tuple[int, ...], Reading]:
    """The layers to draw, counted from 0, and how the policy reads an episode."""
    from foveate.data.droid.reader import cameras_of
    from foveate.studies.attention.episodes import Reading

    depth, heads = policy.spec.depth, policy.spec.heads
    drawn = tuple(dict.fromkeys(_number("layer", layer, depth) for layer in config.layers))
    required = policy.spec.views
    size = policy.spec.image_size
    return drawn, Reading(
        cameras=cameras_of(required, config.camera),  # type: ignore[arg-type]  # checked in the config
        state=policy.spec.state,
        views={view: names[0] for view, names in policy.spec.cameras.items() if names and names[0] in required},
        model_hw=(size, size),
        policy=policy.spec.name,
        layers=tuple(range(depth)) if config.keep == "all" else drawn,
        heads=tuple(dict.fromkeys(_number("head", head, heads) for head in config.heads)) or tuple(range(heads)),
    )


def _number(kind: str, number: int, count: int) -> int:
    if not -count <= number < count:
        raise FoveateError(
            f"--{kind}s: {kind} {number} does not exist; the model has {count} {kind}s, 0 to {count - 1}: "
            f"choose among them, for instance --{kind}s {','.join(map(str, range(count)[-3:]))}"
        )
    return number % count


def _looker(config: EpisodesConfig, policy: Policy, reading: Reading) -> Any:
    from foveate.types import AttentionRequest, Observation
    from foveate.util.noise import action_noise, stack_noise

    request = AttentionRequest(layers=reading.layers, phases=config.phases, heads=reading.heads)  # type: ignore[arg-type]
    shape = policy.spec.noise_shape

    def look(places: Sequence[tuple[str, int]], observations: Sequence[Observation]) -> list[Mapping[Any, Any]]:
        keys = [[config.seed, zlib.crc32(episode.encode()), frame] for episode, frame in places]
        noise = stack_noise([action_noise(shape, *key) for key in keys])
        return [maps for _, maps in policy.attend(observations, request, noise)]

    return look


def _count_keyframes(episode: Episode, interval: int) -> int:
    """0 where the episode cannot be read: it will be reported when it is its turn."""
    try:
        return len(range(0, episode.rows, interval))
    except FoveateError:
        return 0
