"""The loader hands out the right pictures in any order, in little memory, and says what is wrong."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from foveate.data.lerobot.dataset import LeRobotDataset
from foveate.data.lerobot.loader import FrameLoader, SetPart, windowed_order
from foveate.errors import FoveateError
from foveate.testing.lerobot import CAMERAS, LENGTHS, SIZES, seen_in, write_set

N = sum(LENGTHS)
EPISODES = np.repeat(np.arange(3), LENGTHS)
FRAMES = np.concatenate([np.arange(length) for length in LENGTHS])
WRIST = (*SIZES[CAMERAS[1]], 3)


def cut(picture: np.ndarray) -> np.ndarray:
    """48 x 64 to 48 x 48 without moving a cell's inner half out of its cell."""
    return picture if picture.shape == WRIST else np.ascontiguousarray(picture[:, ::4][:, :16].repeat(3, 1))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("sets") / "v30")


def loader(root: Path, samples: int, cameras=CAMERAS[1:], rows=None) -> FrameLoader:
    part = SetPart(root, tuple(cameras), np.arange(N) if rows is None else rows)
    return FrameLoader([part], cut, WRIST, memory_gb=samples * len(cameras) * np.prod(WRIST) / 1e9, workers=2)


def check(pictures: np.ndarray, numbers: np.ndarray) -> None:
    seen = [seen_in(picture[-1]) for picture in pictures]
    assert seen == [(EPISODES[n], 1, FRAMES[n]) for n in numbers]


@pytest.mark.parametrize("samples", [12, 1000])
def test_pictures_are_exact_whatever_the_memory(root: Path, samples: int) -> None:
    with loader(root, samples) as frames:
        assert (frames.capacity, frames.window) == ((12, 6) if samples == 12 else (N, N))
        for epoch in range(2):
            order = windowed_order(LENGTHS, frames.window, run=5, seed=epoch)
            frames.plan(order[: N // 6 * 6])
            for i in range(N // 6):
                check(frames.get(order[6 * i : 6 * i + 6]), order[6 * i : 6 * i + 6])
        assert frames.report.samples == 2 * (N // 6 * 6)
        # What fits into the memory is decoded once.
        assert frames.report.decoded <= N if samples > N else frames.report.decoded > N
        assert "training waited" in str(frames.report)


def test_the_report_counts_what_training_waited(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that a second passes on for each look into the workers' post, and three for each step of training."""
    now = [1.0]
    monkeypatch.setattr("foveate.data.lerobot.loader.time", SimpleNamespace(monotonic=lambda: now[0]))
    with loader(root, 1000) as frames:
        receive = frames._receive

        def slow() -> None:
            now[0] += 1
            receive()

        monkeypatch.setattr(frames, "_receive", slow)
        frames.plan(np.arange(N))
        for first in range(0, N, 6):
            frames.get(np.arange(N)[first : first + 6])
            now[0] += 3
        report = frames.report
    trained = 3 * (-(-N // 6) - 1)  # the last step's time comes after the last `get`
    assert report.waited > 0 and report.elapsed == report.waited + trained and report.samples == N
    rate, share = N / report.elapsed, 100 * report.waited / report.elapsed
    assert f"{rate:.1f} samples/s" in str(report) and f"waited for it in {share:.0f} % of" in str(report)


def test_what_is_not_planned_is_decoded_all_the_same(root: Path) -> None:
    with loader(root, 12) as frames:
        frames.plan(np.arange(N))
        check(frames.get([40, 3, 3]), np.array([40, 3, 3]))
        out = np.zeros((2, 1, *WRIST), np.uint8)
        assert frames.get([0, 41], out) is out
        check(out, np.array([0, 41]))
        with pytest.raises(FoveateError, match="a batch of 7 samples, and the memory holds 2 x 6"):
            frames.get(range(7))


def test_samples_may_be_some_rows_of_several_sets(root: Path) -> None:
    parts = [
        SetPart(root, (None, CAMERAS[1]), np.array([4, 20])),
        SetPart(root, (CAMERAS[1], CAMERAS[1]), np.array([41])),
    ]
    with FrameLoader(parts, cut, WRIST, memory_gb=1, workers=1) as frames:
        pictures = frames.get([2, 0, 1])
        check(pictures, np.array([41, 4, 20]))
        assert not pictures[1:, 0].any() and pictures[0, 0].any()


def test_an_order_visits_all_once_and_keeps_runs_together() -> None:
    order = windowed_order([50, 3, 0, 70], window=30, run=10, seed=1)
    assert sorted(order.tolist()) == list(range(123))
    assert not np.array_equal(order, windowed_order([50, 3, 0, 70], window=30, run=10, seed=2))
    window = np.sort(order[:30])
    assert len(np.flatnonzero(np.diff(window) > 1)) <= 5  # a few runs, and no single rows from everywhere
    assert (np.diff(order[:30]) != 1).any()


def test_a_workers_trouble_is_told(root: Path, tmp_path: Path) -> None:
    broken = write_set(tmp_path / "set", "v2.1")
    (broken / "videos" / "chunk-000" / CAMERAS[1] / "episode_000001.mp4").unlink()
    with loader(broken, 100) as frames, pytest.raises(FoveateError, match=r"episode_000001\.mp4: no such video"):
        frames.get([0, 20])
    with loader(root, 100) as frames:
        for worker in frames._workers:
            os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(FoveateError, match=r"2 of 2 workers ended .exit code -9"):
            frames.get([0, 20])
    with pytest.raises(FoveateError, match="2 samples and 1 worker are the least"):
        loader(root, 1)


def test_the_dataset_is_opened_by_its_rows(root: Path) -> None:
    """Sample numbers of a part are rows of the whole set, whichever episodes were chosen."""
    dataset = LeRobotDataset(root, [1])
    rows = dataset.column("index")
    with loader(root, 1000, rows=rows) as frames:
        pictures = frames.get([0, 22])
        check(pictures, rows[[0, 22]])
