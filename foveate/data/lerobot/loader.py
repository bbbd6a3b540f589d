"""Pictures of LeRobot data sets, decoded ahead of their use by worker processes into shared memory of a fixed size.

    with FrameLoader(parts, prepare, shape, memory_gb=4, workers=4) as loader:
        order = windowed_order(lengths, window=loader.window, run=16, seed=0)         # of sample numbers
        loader.plan(order)
        for numbers in batches(order):
            pictures = loader.get(numbers)                                    # uint8 [B, V, *shape]

Every frame is exact. What it costs is seeking: a sample somewhere in a video costs all frames since its keyframe. So
samples are used in *windows*: short runs of consecutive rows from everywhere in the data, as many as half of the memory
holds, in random order; a window is decoded run by run in the order of time, while the one before is being used.
Samples that are still in memory are not decoded again: a set that fits is decoded once.
"""

from __future__ import annotations

import logging
import multiprocessing
import queue
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from foveate.data.lerobot.dataset import LeRobotDataset
from foveate.errors import FoveateError, reason_of
from foveate.util.process import die_with_parent
from foveate.util.words import percent

TASK = 32
"""Rows that a worker takes at once."""
REPORT_SECONDS = 60.0
SHM = Path("/dev/shm")
Prepare = Callable[[np.ndarray], np.ndarray]
"""From a picture uint8 [H, W, 3] to what is kept of it, uint8 of one shape; picklable."""


class SetPart(NamedTuple):
    """One data set, and the rows of it that are samples."""

    root: Path
    cameras: tuple[str | None, ...]
    """Camera of each view; None: the view stays zero."""
    rows: np.ndarray
    """int64: rows of the whole set (all its episodes), ascending."""


@dataclass
class LoaderReport:
    """What the loader has done."""

    samples: int = 0
    """Samples handed out."""
    decoded: int = 0
    """Samples decoded; fewer than those handed out where they stay in memory."""
    waited: float = 0.0
    """s that `get` has waited for the workers."""
    elapsed: float = 0.0
    """s since the first `get`."""

    def __str__(self) -> str:
        share = self.waited / self.elapsed if self.elapsed else 0.0
        rate = self.samples / self.elapsed if self.elapsed else 0.0
        return (
            f"loader: {rate:.1f} samples/s, {self.samples} used, {self.decoded} decoded, training waited for it in "
            f"{percent(share)} of the time"
        )


def windowed_order(lengths: Sequence[int], window: int, run: int, seed: int) -> np.ndarray:
    """int64 [N]: every sample once, in random order within windows of samples from everywhere.

    Args:
        lengths: samples of each episode; they are numbered one after another.
        window: samples whose order is mixed.
        run: consecutive samples of an episode that stay in one window; 1: any order.
    """
    rng = np.random.default_rng(seed)
    runs: list[np.ndarray] = []
    for begin, stop in pairwise(np.cumsum([0, *lengths])):
        # Where the runs of an episode begin differs from epoch to epoch.
        bounds = [begin, *range(int(begin + rng.integers(1, run + 1)), int(stop), run), stop]
        runs += [np.arange(first, last) for first, last in pairwise(bounds)]
    mixed = np.concatenate([runs[i] for i in rng.permutation(len(runs))]) if runs else np.zeros(0, np.int64)
    return np.concatenate([rng.permutation(mixed[i : i + window]) for i in range(0, len(mixed), window)] or [mixed])


class FrameLoader:
    """Worker processes and the memory that they write to.

    Attributes:
        capacity: samples that the memory holds.
        window: samples that are decoded together: all, where the memory holds all.
        report: what has been done so far.
    """

    def __init__(
        self,
        parts: Sequence[SetPart],
        prepare: Prepare,
        shape: Sequence[int],
        *,
        memory_gb: float = 4.0,
        workers: int = 2,
    ) -> None:
        """
        Args:
            parts: their samples are numbered one after another.
            shape: of one prepared picture.
            memory_gb: for the pictures of all samples in memory, in GB.
            workers: processes that decode, one thread each.
        Raises:
            FoveateError: the memory holds fewer than two samples, or cannot be had.
        """
        self._parts, self._total = list(parts), sum(len(part.rows) for part in parts)
        self._ends = np.cumsum([len(part.rows) for part in parts])
        views = len(parts[0].cameras)
        size = views * int(np.prod(shape))
        self.capacity = min(int(memory_gb * 1e9) // size, self._total)
        if self.capacity < min(2, self._total) or workers < 1:
            raise FoveateError(
                f"loader: {memory_gb:g} GB and {workers} workers; a sample takes {size / 1e6:.1f} MB, and 2 samples "
                "and 1 worker are the least"
            )
        self.window = self._total if self.capacity == self._total else max(self.capacity // 2, 1)
        self.report = LoaderReport()
        self._memory = _shared(self.capacity * size)
        self.buffer: np.ndarray = np.ndarray((self.capacity, views, *shape), np.uint8, self._memory.buf)
        """uint8 [capacity, V, *shape]."""
        self._slots: dict[int, int] = {}
        """Sample -> its place in the buffer, decoded or being decoded."""
        self._free = list(range(self.capacity))
        self._ready: set[int] = set()
        self._wanted: dict[int, int] = {}
        """Sample -> how often it is still to be handed out, of the windows that have begun."""
        self._loose: OrderedDict[int, None] = OrderedDict()
        """Decoded samples that nobody waits for, the one used longest ago first: their places can be taken."""
        self._ahead: list[int] = []
        """Samples of the plan whose window has not begun, the next one last."""
        context = multiprocessing.get_context("spawn")
        self._tasks, self._done = context.Queue(), context.Queue()
        described = [(str(part.root), part.cameras, part.rows) for part in self._parts]
        arguments = (self._memory.name, self.buffer.shape, described, prepare, self._tasks, self._done)
        self._workers = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(workers)]
        for worker in self._workers:
            worker.start()
        self._begun: float | None = None
        self._told = time.monotonic()

    def __len__(self) -> int:
        """Samples in all."""
        return self._total

    def plan(self, order: Sequence[int] | np.ndarray) -> None:
        """What will be asked for next, in this order; a plan before it is forgotten."""
        self._ahead = [int(number) for number in reversed(np.asarray(order, np.int64))]
        for number in self._wanted:
            if number in self._ready:
                self._loose[number] = None
        self._wanted = {}
        self._send()

    def get(self, numbers: Sequence[int] | np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """uint8 [B, V, *shape]: the pictures of these samples, copied.

        Args:
            numbers: of samples; what was not planned makes the plan void.
            out: is filled, where the pictures are wanted in memory of the caller's.
        Raises:
            FoveateError: a worker failed or was killed, or more samples are asked for than the memory holds.
        """
        wanted = [int(number) for number in numbers]
        if (count := len(set(wanted))) > self.window:
            raise FoveateError(
                f"loader: a batch of {count} samples, and the memory holds 2 x {self.window}; raise data.memory_gb"
            )
        begun = time.monotonic()
        self._begun = self._begun or begun
        if any(number not in self._wanted for number in wanted):
            self.plan(wanted)
        while not self._ready.issuperset(wanted):
            self._receive()
        waited = time.monotonic() - begun
        pictures = np.take(self.buffer, [self._slots[number] for number in wanted], axis=0, out=out)
        for number in wanted:
            self._wanted[number] -= 1
            if not self._wanted[number]:
                del self._wanted[number]
                self._loose[number] = None
        self._send()
        self._count(len(wanted), waited)
        return pictures

    def _count(self, samples: int, waited: float) -> None:
        now = time.monotonic()
        self.report.samples += samples
        self.report.waited += waited
        self.report.elapsed = now - (self._begun or now)
        if now - self._told > REPORT_SECONDS:
            self._told = now
            logging.getLogger("foveate").info("%s", self.report)

    def _send(self) -> None:
        """Begin the next windows, as long as there is room for the whole of one."""
        while self._ahead:
            count = min(self.window, len(self._ahead))
            batch = self._ahead[-count:][::-1]
            fresh = [number for number in dict.fromkeys(batch) if number not in self._slots]
            kept = sum(number in self._loose for number in set(batch))
            if len(fresh) > len(self._free) + len(self._loose) - kept:
                return
            del self._ahead[-count:]
            for number in batch:
                self._wanted[number] = self._wanted.get(number, 0) + 1
                self._loose.pop(number, None)
            for number in fresh:
                self._slots[number] = self._free.pop() if self._free else self._evict()
            self._hand_out(sorted(fresh))

    def _evict(self) -> int:
        number, _ = self._loose.popitem(last=False)
        self._ready.discard(number)
        return self._slots.pop(number)

    def _hand_out(self, numbers: Sequence[int]) -> None:
        """Tasks of samples that lie next to each other in time."""
        owner = np.searchsorted(self._ends, numbers, "right")
        for part in np.unique(owner):
            first = int(self._ends[part]) - len(self._parts[part].rows)
            mine = [number for number, own in zip(numbers, owner, strict=True) if own == part]
            for i in range(0, len(mine), TASK):
                task = mine[i : i + TASK]
                places = [self._slots[number] for number in task]
                self._tasks.put((int(part), task, [number - first for number in task], places))

    def _receive(self) -> None:
        try:
            numbers, failure = self._done.get(timeout=1.0)
        except queue.Empty:
            if dead := [worker.exitcode for worker in self._workers if not worker.is_alive()]:
                raise FoveateError(
                    f"loader: {len(dead)} of {len(self._workers)} workers ended (exit code {dead[0]}); -9 means "
                    "killed, mostly for want of memory: lower data.memory_gb or data.decode_workers"
                ) from None
            return
        if failure:
            raise FoveateError(failure)
        self._ready.update(numbers)
        self._loose.update(dict.fromkeys(number for number in numbers if number not in self._wanted))
        self.report.decoded += len(numbers)
        self._send()

    def close(self) -> None:
        """End the workers and give the memory back; a second time nothing happens."""
        if not self.buffer.size:
            return
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.join()
        for channel in (self._tasks, self._done):
            channel.cancel_join_thread()
            channel.close()
        self.buffer = np.zeros(0, np.uint8)
        self._memory.close()
        self._memory.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _shared(size: int) -> SharedMemory:
    """Shared memory that is there: what the system promises and does not have would end the process when it is used."""
    free = shutil.disk_usage(SHM).free if SHM.exists() else size
    if size > free:
        raise FoveateError(
            f"loader: {size / 1e9:.1f} GB of shared memory are wanted, and {SHM} has {free / 1e9:.1f} GB left; lower "
            "data.memory_gb, or give the container more (docker: --shm-size)"
        )
    return SharedMemory(create=True, size=max(size, 1))


Described = tuple[str, tuple[str | None, ...], np.ndarray]
"""A `SetPart`, as it is sent to a worker."""


def _work(
    name: str, shape: tuple[int, ...], parts: Sequence[Described], prepare: Prepare, tasks: Any, done: Any
) -> None:
    """A worker: takes tasks until it is killed."""
    die_with_parent()
    memory = SharedMemory(name=name)
    buffer: np.ndarray = np.ndarray(shape, np.uint8, memory.buf)
    datasets: dict[int, LeRobotDataset] = {}
    while True:
        part, numbers, samples, places = tasks.get()
        root, cameras, rows = parts[part]
        try:
            if part not in datasets:
                datasets[part] = LeRobotDataset(root)
            place_of = dict(zip(rows[samples].tolist(), places, strict=True))
            for view, camera in enumerate(cameras):
                if camera is None:
                    buffer[places, view] = 0
                    continue
                for row, picture in datasets[part].pictures(camera, place_of):
                    buffer[place_of[row], view] = prepare(picture)
            done.put((numbers, None))
        except Exception as error:  # told to the process that waits
            done.put((numbers, reason_of(error)))
