"""Samples per second that a LeRobot data set gives, by the number of decoding processes; and lerobot's own loader.

Both give all cameras of random rows in batches, each row once. Ours shuffles in windows and shrinks the pictures to the
model's size, as in training; lerobot's gives them in their own size, by torch's DataLoader with as many workers, from
an interpreter that has the package.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from foveate.data.lerobot.dataset import LeRobotDataset
from foveate.data.lerobot.loader import FrameLoader, SetPart, windowed_order
from foveate.errors import FoveateError

PEER = Path(__file__).with_name("lerobot_peer.py")


@dataclass(frozen=True)
class LoaderRow:
    """One measurement."""

    loader: str
    """`foveate`, or `lerobot` with its version."""
    workers: int
    samples: int
    seconds: float
    """From the first sample that is asked for, workers running, to the last; lerobot's first batch is left out."""

    @property
    def samples_per_s(self) -> float:
        return self.samples / self.seconds


def measure(
    root: Path,
    workers: Sequence[int],
    *,
    samples: int = 2000,
    batch: int = 32,
    size: int = 224,
    memory_gb: float = 1.0,
    peer: str | None = None,
    step: Callable[[], None] = lambda: None,
) -> list[LoaderRow]:
    """One row per number of workers, and one of the peer each, taken in turn.

    Args:
        samples: rows that are read in each measurement, at most.
        size: side of the pictures, in pixels.
        peer: a Python interpreter that has lerobot; None: no such rows.
        step: called after each measurement.
    """
    dataset = LeRobotDataset(root)
    if not dataset.cameras:
        raise FoveateError(f"{root}: has no camera; there is nothing to decode")
    if len(dataset) < 2 * batch:
        raise FoveateError(f"{root}: {len(dataset)} rows; at least two batches of {batch} are needed")
    rows = []
    for count in workers:
        rows.append(_ours(dataset, count, samples, batch, size, memory_gb))
        step()
        if peer is not None:
            rows.append(_peer(peer, root, count, samples, batch))
            step()
    return rows


def _ours(dataset: LeRobotDataset, workers: int, samples: int, batch: int, size: int, memory_gb: float) -> LoaderRow:
    part = SetPart(dataset.root, dataset.cameras, np.arange(len(dataset)))
    lengths = [episode.length for episode in dataset.episodes]
    with FrameLoader(
        [part], partial(_shrunk, size=size), (size, size, 3), memory_gb=memory_gb, workers=workers
    ) as loader:
        order = windowed_order(lengths, loader.window, 16, seed=0)[: samples // batch * batch]
        loader.get(order[:1])  # the workers have started
        begun = time.perf_counter()
        loader.plan(order)
        for i in range(0, len(order), batch):
            loader.get(order[i : i + batch])
        return LoaderRow("foveate", workers, len(order), time.perf_counter() - begun)


def _peer(python: str, root: Path, workers: int, samples: int, batch: int) -> LoaderRow:
    command = [python, str(PEER), str(root.resolve()), str(workers), str(samples), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise FoveateError(f"--peer {python}: lerobot's loader failed on {root}: {last[0]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return LoaderRow(f"lerobot {found['version']}", workers, found["samples"], found["seconds"])


def _shrunk(picture: np.ndarray, size: int) -> np.ndarray:
    from PIL import Image

    if picture.shape[:2] == (size, size):
        return picture
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))
