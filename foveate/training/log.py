"""What a training run says: a progress bar, `metrics.jsonl`, TensorBoard, W&B. Only the leading process speaks.

A line of `metrics.jsonl` is one JSON object of numbers: `step` (steps done), `loss` (mean since the last line), `lr`,
`grad_norm`, `samples_per_s`, and `noise_scale`, `kept`, `kept/<view>` (patches per sample) where a pruner trains; of an
evaluation during the training `step`, `eval/success`, `eval/episodes`. Of a head that is fitted to cached passes (stage
2 of the value of vision) there are `step`, `epoch`, `loss`, `lr`, and at the end of each epoch `val_loss`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from foveate.errors import FoveateError
from foveate.training.config import LoopConfig
from foveate.util.files import write_text
from foveate.util.progress import ProgressBar, plain_console

log = logging.getLogger(__name__)
SMOOTHING = 0.9


class MetricsFile:
    """`metrics.jsonl`, a context manager: a resumed training keeps the lines up to step `done`, a new one none."""

    def __init__(self, path: Path, done: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _reopen(path, done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def write(self, line: Mapping[str, float]) -> None:
        """One line, at once on disk.

        Raises:
            FoveateError: it cannot be written.
        """
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            raise FoveateError(f"cannot write {self._file.name}: {error}; free some space and resume") from error


class RunLog:
    """A context manager around the loop; `step` once per step, `metrics` every few."""

    def __init__(self, out: Path, loop: LoopConfig, done: int, *, speaks: bool = True) -> None:
        self.speaks, self.batch_size, self.total, self.done = speaks, loop.batch_size, loop.steps, done
        self._out = out
        self.loss: float | None = None
        self._last = (time.perf_counter(), done)
        if not speaks:
            return
        out.mkdir(parents=True, exist_ok=True)
        self._file = MetricsFile(out / "metrics.jsonl", done)
        self._board = _tensorboard(out / "tensorboard", done)
        self._wandb = _wandb(out, loop) if loop.wandb else None
        self._console = plain_console()
        self._bar = ProgressBar(self._console, "train", "steps", self.total, done)

    def __enter__(self) -> RunLog:
        if self.speaks:
            self._bar.__enter__()
            if self.done:
                told = f"resumed at step {self.done} of {self.total}, from the checkpoint in {self._out}"
                self._console.print(told, highlight=False, soft_wrap=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self.speaks:
            self._bar.__exit__()
            self._file.close()
            if self._board is not None:
                self._board.close()
            if self._wandb is not None:
                self._wandb.finish(exit_code=int(kind is not None))

    def step(self, done: int) -> None:
        if self.speaks:
            self._bar.reach(done)

    def metrics(self, done: int, values: Mapping[str, float]) -> None:
        """Write one line of numbers; `done` steps are finished."""
        if not self.speaks:
            return
        now, before = time.perf_counter(), self._last
        self._last = (now, done)
        rate = (done - before[1]) * self.batch_size / max(now - before[0], 1e-9)
        self._write(done, {**values, "samples_per_s": rate})
        loss = values["loss"]
        self.loss = loss if self.loss is None else SMOOTHING * self.loss + (1 - SMOOTHING) * loss
        kept = f"  kept {values['kept']:.1f}" if "kept" in values else ""
        self._bar.reach(done, f"loss {self.loss:.4f}  lr {values['lr']:.1e}  {rate:.0f} samples/s{kept}")

    def evaluation(self, done: int, values: Mapping[str, float]) -> None:
        """Write what an evaluation after `done` steps found, if it found anything."""
        if self.speaks and values:
            self._write(done, {f"eval/{name}": value for name, value in values.items()})
            told = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
            self._console.print(f"step {done}: {told}", highlight=False, soft_wrap=True)

    def _write(self, done: int, values: Mapping[str, float]) -> None:
        self._file.write({"step": done, **values})
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, done)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=done)


def _wandb(out: Path, loop: LoopConfig) -> Any:
    """A run named after its folder, which a resumed training goes on with."""
    try:
        import wandb
    except ImportError as error:
        raise FoveateError("loop.wandb: needs W&B; install it with `pip install foveate[wandb]`") from error
    name = "-".join(out.parts[-2:]).strip("/-")
    return wandb.init(project=loop.wandb_project, name=name, id=name, resume="allow", dir=str(out))


def _reopen(path: Path, done: int) -> Any:
    """Open for appending, without the lines after step `done`, which a resumed run writes anew."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if _step_of(line) <= done]
        write_text(path, "".join(line + "\n" for line in lines))
    return path.open("a")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")  # half a line, left by a crash


def _tensorboard(folder: Path, done: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.warning("no TensorBoard log: install it with `pip install foveate[train]`; metrics.jsonl holds the numbers")
        return None
    return SummaryWriter(str(folder), purge_step=done if done else None)
