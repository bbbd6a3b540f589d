"""Recording of whole episodes, every frame: DROID-format folders or one mp4 each.

A recording becomes visible only when its episode has ended; recordings whose episode is not in the run's log (the run
was killed between the two) are removed when the run goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np

from foveate.data.droid.writer import DroidEpisode, DroidWriter
from foveate.data.masks.writer import MaskWriter
from foveate.envs.base import EnvConventions
from foveate.evaluation.sim.rollout import Job, Recorder, RestartableEnv
from foveate.types import EpisodeResult, Observation
from foveate.util.files import CannotWrite
from foveate.util.video import VideoWriter, side_by_side

RecordKind = Literal["droid", "video"]
PLAYBACK_FPS = 20.0
"""Videos play at the control rate, at most at this one: 80 pictures a second help nobody."""


def make_recorder(
    kind: RecordKind,
    out: Path,
    conventions: EnvConventions,
    policy: str,
    done: Collection[tuple[str, str, int]],
    size: tuple[int, int] | None = None,
    masks: bool = False,
) -> Callable[[Job], Recorder]:
    """The recorder of each episode; DROID folders go to `out/droid`, videos to `out/videos`.

    Args:
        done: (variant, task, episode) of the episodes in the log.
        size: width and height of the recorded pictures, rendered for the record alone; None: what the policy sees.
        masks: write beside the pictures of DROID folders where each object is in them.
    """
    with _clear_errors(out):
        if kind == "video":
            folder = out / "videos"
            folder.mkdir(parents=True, exist_ok=True)
            known = {_video_stem(task, episode) for _, task, episode in done}
            for video in folder.glob("*.mp4"):
                if video.stem.rpartition("_")[0] not in known:
                    video.unlink()
            return lambda job: VideoRecorder(folder, job, conventions.control_hz, size)
        writer = DroidWriter(out / "droid")
        for episode, about in writer.episodes():
            if (about["variant"], about["task"], about["episode"]) not in done:
                shutil.rmtree(episode)
        return lambda job: DroidRecorder(writer, conventions, policy, size, masks)


def drop_unfinished(out: Path) -> None:
    """Remove what a run that ends early has begun to record."""
    shutil.rmtree(out / "droid" / ".partial", ignore_errors=True)
    for video in (out / "videos").glob(".*.partial.mp4"):
        video.unlink(missing_ok=True)


class VideoRecorder:
    """`videos/<task>_ep000_<status>.mp4`, views side by side."""

    def __init__(self, folder: Path, job: Job, control_hz: float, size: tuple[int, int] | None = None) -> None:
        self.folder, self.stem, self._size = folder, _video_stem(job.task, job.episode), size
        self._path = folder / f".{self.stem}.partial.mp4"
        with _clear_errors(self._path):
            self._video = VideoWriter(self._path, min(control_hz, PLAYBACK_FPS))

    def add(self, observation: Observation, action: np.ndarray | None, env: RestartableEnv) -> None:
        seen = env.snapshot(self._size) if self._size else None
        with _clear_errors(self._path):
            self._video.add(side_by_side(seen.images if seen else observation.images))

    def finish(self, result: EpisodeResult) -> None:
        with _clear_errors(self._path):
            self._video.close()
            if self._path.exists():
                self._path.rename(self.folder / f"{self.stem}_{result.status}.mp4")


class DroidRecorder:
    """One DROID-format folder with a video per camera and one of all: a frame per row of the trajectory, at the control
    rate."""

    def __init__(
        self,
        writer: DroidWriter,
        conventions: EnvConventions,
        policy: str,
        size: tuple[int, int] | None = None,
        masks: bool = False,
    ) -> None:
        self._writer, self._conventions, self._policy, self._size = writer, conventions, policy, size
        self._with_masks = masks
        self._masks: MaskWriter | None = None
        self._episode: DroidEpisode | None = None
        self._videos: dict[str, VideoWriter] = {}

    def add(self, observation: Observation, action: np.ndarray | None, env: RestartableEnv) -> None:
        seen = env.snapshot(self._size)
        segments = env.segment(self._size) if self._with_masks and action is not None else None
        images = seen.images if seen and self._size else observation.images
        with _clear_errors(self._writer.root):
            if self._episode is None:
                self._episode = self._writer.begin(tuple(observation.images))
                for name in (*self._episode.cameras.values(), "all"):
                    path = self._episode.recordings / f"{name}.mp4"
                    self._videos[name] = VideoWriter(path, self._conventions.control_hz)
            if action is None:
                self._episode.end(seen.robot if seen else None)
                return  # the last picture: no row of the trajectory belongs to it
            self._videos["all"].add(side_by_side(images))
            for view, camera in self._episode.cameras.items():
                self._videos[camera].add(images[view])
            if segments is not None:
                self._masks = self._masks or MaskWriter(self._episode.recordings / "masks")
                cameras = self._episode.cameras
                shown = {camera: images[view] for view, camera in cameras.items()}
                self._masks.add({camera: segments[view] for view, camera in cameras.items()}, shown)
            known = (seen.robot, seen.cameras) if seen else (None, None)
            self._episode.add(images, observation.state, action, *known)

    def finish(self, result: EpisodeResult) -> None:
        if self._episode is None:
            return  # died before the first action: nothing was seen
        with _clear_errors(self._writer.root):
            for video in self._videos.values():
                video.close()
            if self._masks is not None:
                self._masks.finish()
            episode, c = self._episode, self._conventions
            name = f"{result.status}_{self._policy}_{result.task}_{episode.stamp}.mp4".replace("/", "-")
            (episode.recordings / "all.mp4").rename(episode.folder / name)
            about = {
                "variant": result.variant,
                "task": result.task,
                "episode": result.episode,
                "seed": result.seed,
                "status": result.status,
                "policy": self._policy,
                "error": result.error,
            }
            episode.finish(result.status, result.instruction, c.control_hz, c.action_space, about)


def _video_stem(task: str, episode: int) -> str:
    return f"{task}_ep{episode:03d}".replace("/", "-")


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotRecord(path, error) from error


class CannotRecord(CannotWrite):
    """The disk is full, or the recording cannot be written: that ends the run, and not the episode alone."""

    def __str__(self) -> str:
        reason = "the disk is full" if self.is_full else self.reason
        return (
            f"{self.path}: cannot record there ({reason}); free space, or run the same command again without "
            "--record in another folder"
        )
