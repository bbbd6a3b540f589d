"""Demonstrations as training batches: everything in memory, images as uint8 at the model's size.

Pictures of LeRobot data sets stay on disk; worker processes decode them ahead (`stream`).

A sample is an instant with pictures: its images, state and instruction, and the `action_horizon` actions from there
on. Beyond the episode's end the last action is repeated and masked out of the loss.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from foveate.data.demos import DemoDataset, DemoEpisode
from foveate.errors import FoveateError, unknown
from foveate.models.common.images import model_images, to_uint8
from foveate.models.common.normalize import NormStats, RunningStats, load_norm_stats, norm_file
from foveate.models.common.processing import RobotProcessor
from foveate.models.common.robots import RobotMapping
from foveate.training.config import DataConfig
from foveate.training.loop import DRAWS, ORDER, Share, seed_of
from foveate.training.norm_stats import norm_stats_folder
from foveate.training.policy.augment import crop, recolour, shift, tinge, uniform
from foveate.training.policy.fake import FAKE, fake_episodes
from foveate.training.policy.stream import Prepare, StreamedImages, at_size, is_lerobot, lerobot_episodes, streamed
from foveate.training.spread import with_width
from foveate.util.words import plural

GREY = 128
MIN_SPREAD = 0.05
"""Least distance of the quantiles, as a share of the largest one of the vector; see `norm_stats`."""


def check_path(config: DataConfig) -> None:
    """Folders of demonstrations must be named."""
    if not config.path:
        raise FoveateError(
            "data.path is empty; name a LeRobot data set (--repo_id) or a folder of demonstrations (`foveate data "
            "metaworld-demos`, `libero-demos`)"
        )


def load_demos(
    config: DataConfig, progress: Callable[[int, int], None] | None = None, robot: RobotMapping | None = None
) -> list[DemoEpisode]:
    """The episodes of all folders, of the tasks asked for.

    Args:
        robot: says what the columns of LeRobot data sets are; None: that of the configuration.
    Raises:
        FoveateError: no folder is named, one holds no demonstrations, or a task is not there.
    """
    check_path(config)
    if config.path == (FAKE,):
        return fake_episodes(robot or RobotMapping.load(config.robot))
    if sets := [path for path in config.path if is_lerobot(path)]:
        if len(sets) < len(config.path):
            raise FoveateError("data.path: LeRobot data sets and foveate's demonstrations cannot be mixed; convert one")
        episodes = lerobot_episodes(sets, robot or RobotMapping.load(config.robot), progress)
    else:
        episodes = DemoDataset.load(*config.path, progress=progress).episodes
        for number, episode in enumerate(episodes):
            _check_finite(f"{', '.join(config.path)}, episode {number}", episode)
    there = {episode.env_task for episode in episodes}
    for task in config.tasks:
        if task not in there:
            raise unknown(f"task in {', '.join(config.path)}", task, there)
    return [episode for episode in episodes if not config.tasks or episode.env_task in config.tasks]


def _check_finite(place: str, episode: DemoEpisode) -> None:
    """Raises FoveateError that names the first number that is none."""
    for column, values in (("observation.state", episode.states), ("action", episode.actions)):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, entry = bad[0].tolist()
            raise FoveateError(
                f"{place}, frame {row}, column {column}[{entry}]: {values[row, entry]} is no finite number ({len(bad)} "
                "such values in this episode); mend or leave out the episode"
            )


def chunks(episode: DemoEpisode, starts: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Actions float32 [N, H, A] from each start on, and bool [N, H]: whether the episode still ran."""
    steps = starts[:, None] + np.arange(horizon)
    return episode.actions[np.minimum(steps, len(episode) - 1)], steps < len(episode)


def norm_stats(
    episodes: list[DemoEpisode], robot: RobotMapping, horizon: int, config: DataConfig | None = None
) -> dict[str, NormStats]:
    """Statistics of states and action chunks in the model's convention.

    A number that hardly varies would be blown up by its tiny spread, so quantiles are kept at least `MIN_SPREAD`
    of the widest spread apart, and deviations alike. A data set whose statistics `foveate norm-stats` has written
    brings its own.

    Raises:
        FoveateError: `assets_dir` is named, and they are not there.
    """
    config = config or DataConfig()
    if len(config.path) == 1 or config.assets_dir:
        place = norm_stats_folder(config.path[0], config.assets_dir, config.asset_id)
        if norm_file(place).is_file():
            return load_norm_stats(place)
        if config.assets_dir:
            raise FoveateError(
                f"{norm_file(place)}: no norm stats; write them with `foveate norm-stats` and the same --config-name, "
                "or leave out data.assets_dir to compute them at each start"
            )
    state, actions = RunningStats(), RunningStats()
    for episode in episodes:
        chunk, mask = chunks(episode, np.arange(len(episode)), horizon)
        state.update(robot.to_model_state(episode.states))
        actions.update(robot.to_model_actions(chunk, episode.states)[mask])
    return {key: with_width(found, min_share=MIN_SPREAD)[0] for key, found in (("state", state), ("actions", actions))}


@dataclass
class Samples:
    """All samples of a set of demonstrations, ready to be batched."""

    images: Tensor | StreamedImages
    """uint8 [N, V, 3, S, S]."""
    states: np.ndarray
    """float32 [N, S], normalised."""
    actions: Tensor
    """float32 [N, H, A], normalised, zero-padded."""
    mask: Tensor
    """bool [N, H]."""
    prompts: list[str]
    """[N]."""
    present: Tensor
    """bool [V]: the views that there are pictures of; the others are black."""
    since: Tensor
    """int64 [N]: pictures of its episode before each sample's, which stand in the rows before it."""

    def __len__(self) -> int:
        return len(self.prompts)

    def order(self, seed: int) -> Tensor:
        """int64 [N]: all samples in random order."""
        if isinstance(self.images, StreamedImages):
            return self.images.order(seed)
        return torch.randperm(len(self), generator=Generator().manual_seed(seed))

    def plan(self, order: Tensor, size: int) -> None:
        """What the coming batches of `size` will be made of."""
        if isinstance(self.images, StreamedImages):
            self.images.plan(order, size)


def make_samples(
    episodes: list[DemoEpisode],
    processor: RobotProcessor,
    config: DataConfig | None = None,
    prepare: Prepare | None = None,
) -> Samples:
    """Cut episodes into samples; the episodes' pictures are given back as they are taken over, or stay on disk.

    Args:
        prepare: a family's own way from a picture uint8 [H, W, 3] to the model's size; None: a resize with borders.
    """
    spec, robot, config = processor.spec, processor.robot, config or DataConfig()
    size, horizon, stride = spec.image_size, spec.action_horizon, config.frame_stride
    total = sum(len(episode.frames[::stride]) for episode in episodes)
    images: Tensor | StreamedImages
    if on_disk := streamed(episodes):
        one = prepare or partial(at_size, size=size, resize=processor.resize)
        images = StreamedImages(on_disk, robot, one, size, config)
    else:
        images = torch.empty(total, len(spec.views), 3, size, size, dtype=torch.uint8)
    states, actions, masks, prompts, since = [], [], [], [], []
    done = 0
    for episode in episodes:
        starts = episode.frames[::stride]
        rows = slice(done, done := done + len(starts))
        if isinstance(images, Tensor):
            _take_over(episode, images[rows], processor, prepare, stride)
        chunk, mask = chunks(episode, starts, horizon)
        state = robot.to_model_state(episode.states[starts])
        states.append(processor.state_norm.normalize(state) if processor.state_norm else state.astype(np.float32))
        actions.append(processor.targets(chunk, episode.states[starts]))
        masks.append(torch.from_numpy(mask))
        prompts += [episode.prompt(int(row)) for row in starts]
        since.append(torch.arange(len(starts)))
    cameras = torch.tensor([bool(names) for names in robot.views.values()])
    present = images.present if isinstance(images, StreamedImages) else cameras
    return Samples(
        images, np.concatenate(states), torch.cat(actions), torch.cat(masks), prompts, present, torch.cat(since)
    )


def _take_over(
    episode: DemoEpisode, images: Tensor, processor: RobotProcessor, prepare: Prepare | None, stride: int
) -> None:
    """An episode's pictures at the model's size, into uint8 [T, V, 3, S, S]."""
    size, robot = processor.spec.image_size, processor.robot
    for v, (view, pictures) in enumerate(robot.select_views(episode.images).items()):
        if not robot.views[view]:
            images[:, v] = 0
            continue
        if pictures is None:
            raise FoveateError(
                f"the demonstrations lack the model's view {view!r}: they hold "
                f"{list(episode.images)}; set model.views to the views that are there"
            )
        pictures = pictures[::stride]
        if prepare is not None:
            pictures = np.stack([prepare(picture) for picture in pictures])
        elif pictures.shape[1:3] != (size, size):
            pictures = to_uint8(model_images(list(pictures), size, processor.resize))
        images[:, v] = torch.from_numpy(np.ascontiguousarray(pictures)).movedim(-1, 1)
    episode.images = {}


class DemoSource(ABC):
    """Batches of samples: every epoch visits all of them once, in an order of its own.

    A family's own adds `batch`; it makes its draws for the whole batch and takes its share's rows of them, so that
    shares fit together.
    """

    def __init__(self, samples: Samples, config: DataConfig, seed: int, crop_side: float | None = None) -> None:
        """
        Args:
            crop_side: side of a random crop, of the picture's, which is enlarged again; None: pictures stay whole.
        """
        self.samples, self.config, self.seed, self.crop_side = samples, config, seed, crop_side
        self._epoch: tuple[int, Tensor] | None = None

    @abstractmethod
    def batch(self, share: Share) -> Any:
        """The rows of one share, as the family's objective takes them."""

    def rows(self, step: int, size: int) -> Tensor:
        """int64 [size]: the samples of one step's batch; the last, incomplete batch of an epoch is left out."""
        if size > len(self.samples):
            raise FoveateError(
                f"loop.batch_size {size} exceeds the {plural(len(self.samples), 'sample')}; record more or lower it"
            )
        per_epoch = len(self.samples) // size
        epoch, place = divmod(step, per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            order = self.samples.order(seed_of(self.seed, ORDER, epoch))
            self._epoch = (epoch, order)
            self.samples.plan(order[place * size : per_epoch * size], size)
        return self._epoch[1][place * size : (place + 1) * size]

    def draws(self, step: int) -> Generator:
        """Where one step's random numbers come from."""
        return Generator().manual_seed(seed_of(self.seed, DRAWS, step))

    def images(self, index: Tensor, mine: slice, size: int, draws: Generator, ages: Tensor | None = None) -> Tensor:
        """float32 [B, V, 3, S, S] in [-1, 1], augmented.

        Args:
            index: int64 [B], the samples.
            mine: their rows in the step's batch of `size`.
            ages: int64 [B, V], how many pictures earlier each view is shown; None: none is.
        """
        config = self.config
        views = self.samples.images.shape[1]

        def draw(limit: float) -> Tensor:
            return uniform((size, views), limit, draws)[mine].flatten()

        moves = torch.randint(-config.shift_px, config.shift_px + 1, (size, views, 2), generator=draws)[mine]
        brightness, contrast = draw(config.brightness), draw(config.contrast)
        if ages is None:
            images = self.samples.images[index].flatten(0, 1)
        else:
            assert isinstance(self.samples.images, Tensor), "pictures that are streamed are not shown again"
            images = self.samples.images[index[:, None] - ages, torch.arange(views)].flatten(0, 1)
        if config.blind:
            return (torch.full(images.shape, GREY / 127.5 - 1)).unflatten(0, (-1, views))
        if config.shift_px:
            images = shift(images, moves.flatten(0, 1))
        pixels = images.float().div_(127.5).sub_(1)
        if self.crop_side is not None:
            places = torch.rand((size, views, 2), generator=draws)[mine].flatten(0, 1)
            pixels = crop(pixels, places * (1 - self.crop_side), self.crop_side)
        if config.brightness or config.contrast:
            pixels = recolour(pixels, brightness, contrast)
        if config.saturation or config.hue:
            pixels = tinge(pixels, draw(config.saturation), draw(config.hue))
        return pixels.unflatten(0, (-1, views))

    def states(self, index: Tensor, mine: slice, size: int, draws: Generator) -> np.ndarray:
        """float [B, S]: normalised states, with noise on them."""
        states = self.samples.states[index.numpy()]
        jitter = torch.randn(size, states.shape[1], generator=draws)[mine].numpy()
        noisy: np.ndarray = states + self.config.state_noise * jitter
        return noisy
