"""From episodes of a DROID-format tree to maps, pictures and videos; one episode after the other, resumable.

    run = Pipeline(attend, reading, plan, Path("results"), Path("results_video"), workers=2)
    for outcome in run(find_episodes("toy_cube_benchmark")):
        print(outcome.episode, outcome.status)

What is made of an episode:

    results/<outcome>/<date>/<episode>/        pictures (see `pictures.py`), maps.npz, heads.json, and pi05.md
    results_video/<outcome>/<date>/<episode>/  videos (see `clips.py`)

An episode is drawn in a folder of its own under `results/.partial` and moved to its place in one step, with the marker
`pi05.md` in it, after its videos are there. So what carries the marker is whole, whenever a run is killed, and a run
that starts again passes over it. While the policy infers the next keyframes, threads draw and encode the last ones; few
are in flight at a time, so that memory stays flat. Knows no model: `attend` infers.
"""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from foveate.data.droid.reader import Episode
from foveate.errors import FoveateError
from foveate.studies.attention.archive import HEADS, MAPS, About, EpisodeMaps
from foveate.studies.attention.clips import Filming, clips_of, film
from foveate.studies.attention.pictures import Drawing, draw_keyframe, marker_text, named_views
from foveate.studies.attention.reel import Reel
from foveate.types import AttentionMaps, Observation, Phase
from foveate.util.files import fault_of
from foveate.util.progress import ProgressBar

MARKER = "pi05.md"
PARTIAL = ".partial"

Attend = Callable[[Sequence[tuple[str, int]], Sequence[Observation]], Sequence[Mapping[Phase, AttentionMaps]]]
"""(episode, frame) of each observation, and the observations -> where each inference looked, views named as the
model names them."""


@dataclass(frozen=True)
class Reading:
    """How a policy reads an episode folder."""

    cameras: Mapping[str, str]
    """View of the observation -> camera of the folder."""
    state: tuple[tuple[str, int], ...]
    """Parts of the state: name, length."""
    views: Mapping[str, str]
    """View of the model -> view of the observation, of cameras that are there."""
    model_hw: tuple[int, int]
    """The model's input in pixels."""
    policy: str
    """Name of the policy, for the records."""
    layers: tuple[int, ...]
    """Layers whose maps are kept."""
    heads: tuple[int, ...]
    """Heads whose maps are kept."""
    crop: float | None = None
    """Side of the middle of a picture that the model sees, as a share; None: all of it."""


@dataclass(frozen=True)
class Plan:
    """What is made of each episode."""

    keyframe_interval: int = 8
    batch: int = 4
    """Observations per inference."""
    seed: int = 0
    drawing: Drawing = field(default_factory=Drawing)
    filming: Filming | None = field(default_factory=Filming)
    """None: no videos."""


@dataclass(frozen=True)
class Outcome:
    """What became of one episode."""

    episode: str
    status: Literal["done", "skipped", "failed"]
    error: str = ""


def threads_of(workers: str) -> int:
    """Raises FoveateError where it is no number of at least 1."""
    if not workers.isdecimal() or int(workers) < 1:
        raise FoveateError(f"--workers: expected a number of at least 1, or ray, got {workers!r}")
    return int(workers)


def is_done(out: Path, episode: Episode) -> bool:
    return (out / episode.key / MARKER).exists()


class Pipeline:
    """Turns episodes into results, in one process."""

    def __init__(
        self,
        attend: Attend,
        reading: Reading,
        plan: Plan,
        out: Path,
        video_out: Path | None,
        workers: int = 2,
        on_keyframes: Callable[[int], None] = lambda count: None,
    ) -> None:
        """
        Args:
            workers: threads that draw and encode.
            on_keyframes: called with the number of keyframes that were just inferred.
        """
        self._attend, self._reading, self._plan = attend, reading, plan
        self._out, self._video_out, self._workers, self._tick = out, video_out, workers, on_keyframes

    def __call__(self, episodes: Sequence[Episode]) -> Iterator[Outcome]:
        """Work through the episodes; what happened to each, as it ends, failed ones included.

        An episode's last pictures and its videos are made while the next one is being inferred.
        """
        with ThreadPoolExecutor(self._workers) as pool, ThreadPoolExecutor(1) as closer:
            closing: deque[tuple[Episode, Future[None]]] = deque()
            for episode in episodes:
                if is_done(self._out, episode):
                    yield Outcome(episode.key, "skipped")
                    continue
                folder = self._begin(episode)
                try:
                    drawn = self._infer(episode, folder, pool)
                except BaseException as error:
                    shutil.rmtree(folder, ignore_errors=True)
                    if not isinstance(error, Exception):
                        raise
                    yield Outcome(episode.key, "failed", fault_of(error, episode.key))
                    continue
                closing.append((episode, closer.submit(self._close, episode, folder, drawn, pool)))
                if len(closing) > 1:
                    yield _ended(*closing.popleft())
            while closing:
                yield _ended(*closing.popleft())

    def maps_of(self, episode: Episode) -> EpisodeMaps:
        """The maps of an episode alone: nothing is drawn or written."""
        reading, about = self._reading, self._about(episode)
        seen = episode.observations(about.keyframes, reading.cameras, reading.state)
        frames: list[Mapping[Phase, AttentionMaps]] = []
        while batch := list(islice(seen, self._plan.batch)):
            found = self._attend([(episode.key, index) for index, _ in batch], [each for _, each in batch])
            frames += [{phase: named_views(m, reading.views) for phase, m in maps.items()} for maps in found]
            self._tick(len(batch))
        return EpisodeMaps.gather(about, frames)

    def _about(self, episode: Episode) -> About:
        reading, plan = self._reading, self._plan
        return About(
            episode=episode.key,
            outcome=episode.outcome,
            instruction=episode.instruction,
            total_frames=episode.rows,
            keyframes=tuple(range(0, episode.rows, plan.keyframe_interval)),
            layers=reading.layers,
            heads=reading.heads,
            views=dict(reading.cameras),
            model_hw=reading.model_hw,
            crop=reading.crop,
            policy=reading.policy,
            seed=plan.seed,
        )

    def _begin(self, episode: Episode) -> Path:
        """An empty folder for the episode, cleared of what a killed run left."""
        folder = self._out / PARTIAL / episode.key.replace("/", "__")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise FoveateError(f"{folder}: cannot be made ({error.strerror}); choose another --out") from error
        return folder

    def _infer(self, episode: Episode, folder: Path, pool: ThreadPoolExecutor) -> _Drawn:
        """Infer every keyframe and have it drawn; returns the maps and what is still being drawn."""
        reading, plan, about = self._reading, self._plan, self._about(episode)
        frames: list[Mapping[Phase, AttentionMaps]] = []
        busy: deque[Future[None]] = deque()
        seen = episode.observations(about.keyframes, reading.cameras, reading.state)
        try:
            while batch := list(islice(seen, plan.batch)):
                found = self._attend([(episode.key, index) for index, _ in batch], [each for _, each in batch])
                for (index, observation), maps in zip(batch, found, strict=True):
                    named = {phase: named_views(m, reading.views) for phase, m in maps.items()}
                    frames.append(named)
                    busy.append(pool.submit(self._draw, folder / f"{index:05d}", observation, named))
                    while len(busy) > 2 * self._workers:
                        busy.popleft().result()
                self._tick(len(batch))
        except BaseException:
            for future in busy:
                future.cancel()
            for future in busy:
                if not future.cancelled():
                    future.exception()  # wait: the folder is about to be removed
            raise
        return _Drawn(EpisodeMaps.gather(about, frames), list(busy))

    def _draw(self, folder: Path, observation: Observation, maps: Mapping[Phase, AttentionMaps]) -> None:
        draw_keyframe(
            folder,
            observation.images,
            maps,
            self._plan.drawing,
            model_hw=self._reading.model_hw,
            crop=self._reading.crop,
            title=observation.prompt,
        )

    def _close(self, episode: Episode, folder: Path, drawn: _Drawn, pool: ThreadPoolExecutor) -> None:
        try:
            self._finish(episode, folder, drawn, pool)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _finish(self, episode: Episode, folder: Path, drawn: _Drawn, pool: ThreadPoolExecutor) -> None:
        """Wait for the last pictures, make the videos, write the marker and put the episode in its place."""
        for future in drawn.busy:
            future.result()
        about = drawn.maps.about
        drawn.maps.save(folder / MAPS)
        (folder / HEADS).write_text(json.dumps(drawn.maps.ranking(), indent=1) + "\n")
        if self._plan.filming is not None and self._video_out is not None:
            views = {view: episode.frames(camera, about.keyframes) for view, camera in about.views.items()}
            images = ({view: next(frames) for view, frames in views.items()} for _ in about.keyframes)
            reel = Reel(drawn.maps, images, self._plan.drawing, self._plan.filming.scale)
            out = self._video_out / episode.key
            film_episode(folder, out, self._plan.filming, about.instruction, reel, pool)
        (folder / MARKER).write_text(marker_text(about, self._plan.drawing.layers or about.layers), encoding="utf-8")
        target = self._out / episode.key
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # without a marker: another tool's unfinished work
            shutil.rmtree(target)
        folder.rename(target)


@dataclass
class _Drawn:
    maps: EpisodeMaps
    busy: list[Future[None]]


def follow(
    outcomes: Iterable[Outcome], bar: ProgressBar, episodes: int, done: int = 0, count: int = 0
) -> list[Outcome]:
    """All outcomes; meanwhile the bar says how many episodes are done, and how many failed.

    Args:
        episodes, done: of all runs so far, and how many of them were done before.
        count: by how much an episode advances the bar; 0: something else does.
    """
    ended, failed = [], 0
    for outcome in outcomes:
        ended.append(outcome)
        failed += outcome.status == "failed"
        done += outcome.status != "failed"
        bar.advance(count, f"episodes {done}/{episodes}" + (f"  {failed} failed" if failed else ""))
    return ended


def _ended(episode: Episode, future: Future[None]) -> Outcome:
    """What became of an episode; what is not about this episode (a full disk) is raised."""
    try:
        future.result()
    except Exception as error:
        return Outcome(episode.key, "failed", fault_of(error, episode.key))
    return Outcome(episode.key, "done")


def film_episode(
    folder: Path, out: Path, filming: Filming, instruction: str, reel: Reel, pool: ThreadPoolExecutor
) -> None:
    """All videos of one episode, with its instruction beside them.

    Args:
        pool: its threads encode the videos side by side.
    """
    clips = clips_of(folder)
    out.mkdir(parents=True, exist_ok=True)
    if instruction:
        (out / "instruction.txt").write_text(instruction + "\n", encoding="utf-8")
    for future in [pool.submit(film, folder, out, clip, filming, reel) for clip in clips]:
        future.result()
