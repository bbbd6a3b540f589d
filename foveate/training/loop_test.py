"""Resume and data-parallel training are exact; on a stub model with dropout, so that random state counts."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from foveate.errors import FoveateError
from foveate.training.checkpoint import checkpoints
from foveate.training.config import LoopConfig, OptimConfig
from foveate.training.loop import DRAWS, Share, fit, make_optimizer, seed_of, shares
from foveate.util.world import World, join_world

LOOP = LoopConfig(steps=12, batch_size=8, log_every=1, save_every=5, device="cpu")
OPTIM = OptimConfig(lr=1e-2, final_lr=1e-3, warmup_steps=3, weight_decay=0.1, ema_decay=0.9)


class Stub(nn.Module):
    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 3))
        self.unused = nn.Parameter(torch.zeros(2, 2))

    def begin_step(self, step: int, total: int) -> dict[str, float]:
        return {}

    def metrics(self) -> dict[str, float]:
        return {}

    def forward(self, batch: Tensor) -> Tensor:
        return (self.net(batch[:, :6]) - batch[:, 6:]).square().mean()


class Rows:
    """9 numbers per row, drawn for the whole batch of a step; a share is a slice of it."""

    def __init__(self, poison: int = -1) -> None:
        self.poison = poison

    def batch(self, share: Share) -> Tensor:
        draws = torch.Generator().manual_seed(seed_of(0, DRAWS, share.step))
        rows = torch.randn(share.size, 9, generator=draws)
        return (rows * torch.nan if share.step == self.poison else rows)[share.start : share.stop]


def _losses(out: Path) -> list[tuple[int, float, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines]


def _fit(out: Path, loop: LoopConfig = LOOP, source: Rows | None = None, **kwargs: object) -> Stub:
    stub = Stub()
    fit(stub, source or Rows(), loop, OPTIM, out, world=World(), **kwargs)  # type: ignore[arg-type]
    return stub


def test_a_resumed_run_repeats_the_uninterrupted_one_exactly(tmp_path: Path) -> None:
    whole = _fit(tmp_path / "whole")
    with pytest.raises(FoveateError, match="step 8: loss nan"):  # dies after the checkpoint of step 5
        _fit(tmp_path / "cut", source=Rows(poison=7))
    assert [path.name for path in checkpoints(tmp_path / "cut")] == ["5"]
    resumed = _fit(tmp_path / "cut")
    assert _losses(tmp_path / "cut") == _losses(tmp_path / "whole")
    assert [step for step, *_ in _losses(tmp_path / "cut")] == list(range(1, 13))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_resumed_run_says_where_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FoveateError, match="step 8"):
        _fit(tmp_path, source=Rows(poison=7))
    assert "resumed at" not in capsys.readouterr().out
    _fit(tmp_path)
    told = capsys.readouterr().out
    assert told.count("resumed at") == 1 and f"resumed at step 5 of 12, from the checkpoint in {tmp_path}" in told


def test_the_average_survives_a_resume(tmp_path: Path) -> None:
    ema = fit(Stub(), Rows(), LOOP, OPTIM, tmp_path, world=World())
    again = fit(Stub(), Rows(), LOOP, OPTIM, tmp_path, world=World())  # nothing left to do
    for name, value in ema.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_only_the_newest_checkpoints_stay_and_a_half_written_one_is_ignored(tmp_path: Path) -> None:
    (tmp_path / ".9.draft" / "train_state").mkdir(parents=True)
    (tmp_path / "11").mkdir()
    _fit(tmp_path, dataclasses.replace(LOOP, save_every=2, keep_checkpoints=2, keep_period=6))
    assert [p.name for p in checkpoints(tmp_path)] == ["6", "10", "12"]


def test_a_full_disk_leaves_the_checkpoint_before_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: dict[str, Tensor], path: Path) -> None:
        Path(path).write_bytes(b"half")
        if "/.10.draft/" in str(path) and path.name == "ema.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save_file(tensors, path)

    monkeypatch.setattr("foveate.training.checkpoint.save_file", full)
    with pytest.raises(FoveateError, match="the disk is full; free some space and run the same command again"):
        _fit(tmp_path / "cut")
    assert [path.name for path in (tmp_path / "cut").glob("*") if path.name.strip(".")[0].isdigit()] == ["5"]
    monkeypatch.undo()
    resumed, whole = _fit(tmp_path / "cut"), _fit(tmp_path / "whole")
    assert _losses(tmp_path / "cut") == _losses(tmp_path / "whole")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_another_number_of_processes_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(FoveateError, match="step 8"):
        _fit(tmp_path, source=Rows(poison=7))
    state = tmp_path / "5" / "train_state" / "state.pt"
    torch.save(torch.load(state, weights_only=True) | {"processes": 3}, state)
    caplog.set_level("INFO", "foveate")
    _fit(tmp_path)
    assert "5 was written by 3 processes, now there are 1: the batches stay the same" in caplog.text


def test_another_config_is_refused(tmp_path: Path) -> None:
    _fit(tmp_path, identity={"seed": 1})
    with pytest.raises(FoveateError, match=r"another config: seed=1 \(now 2\)"):
        _fit(tmp_path, identity={"seed": 2})


def test_a_broken_checkpoint_is_named(tmp_path: Path) -> None:
    _fit(tmp_path)
    newest = checkpoints(tmp_path)[-1]
    (newest / "train_state" / "ema.safetensors").write_bytes(b"short")
    with pytest.raises(FoveateError, match=r"checkpoint .*12: .*remove this folder"):
        _fit(tmp_path)


def test_accumulation_gives_the_gradient_of_the_whole_batch() -> None:
    grads = []
    for accumulate in (1, 4):
        stub = Stub(dropout=0)
        portions = shares(3, dataclasses.replace(LOOP, accumulate=accumulate), World())
        assert len(portions) == accumulate
        for share in portions:
            (stub(Rows().batch(share)) / accumulate).backward()
        grads.append(stub.net[0].weight.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-6, atol=1e-7)


def test_shares_cut_the_batch_without_gap_or_overlap() -> None:
    loop = dataclasses.replace(LOOP, batch_size=12, accumulate=2)
    rows = [r for rank in range(3) for s in shares(0, loop, World(rank, 3)) for r in range(s.start, s.stop)]
    assert rows == list(range(12))
    with pytest.raises(FoveateError, match="batch_size 8 cannot be cut into 3"):
        shares(0, LOOP, World(0, 3))


def test_vectors_are_not_decayed() -> None:
    decayed, free = make_optimizer(Stub(), OPTIM).param_groups
    assert {p.ndim for p in decayed["params"]} == {2}
    assert {p.ndim for p in free["params"]} == {1}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


def _train_as_one_of_many(out: str) -> None:
    with join_world("cpu") as world:
        stub = Stub(dropout=0)
        fit(stub, Rows(), dataclasses.replace(LOOP, accumulate=2), OPTIM, Path(out), world=world)
        if world.is_main:
            torch.save(stub.state_dict(), Path(out) / "weights.pt")


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_joint_batch(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*command, str(tmp_path / "two")], env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-2000:]
    alone = Stub(dropout=0)
    fit(alone, Rows(), LOOP, OPTIM, tmp_path / "one", world=World())
    together = torch.load(tmp_path / "two" / "weights.pt", weights_only=True)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(value, together[name], rtol=1e-5, atol=1e-6, msg=name)
    for one, two in zip(_losses(tmp_path / "one"), _losses(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-5)  # the gradient's norm among them, at every step


if __name__ == "__main__":
    _train_as_one_of_many(sys.argv[1])
