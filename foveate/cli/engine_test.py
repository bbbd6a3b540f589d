"""`foveate engine plan`: the token log of a run in, buckets out; what is not there is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveate.cli.main import main
from foveate.engine import plan


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder of 30 queries; the log itself is `write_token_log`'s matter."""
    lengths = [100] * 10 + [112] * 10 + [300] * 10
    monkeypatch.setattr(plan, "lengths_of", lambda run: lengths)
    return tmp_path


def test_the_choice_is_printed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engine", "plan", str(run)]) == 0
    out = capsys.readouterr().out
    assert "30 queries of 100 to 300 tokens, median 112" in out
    assert "--engine.buckets 112,300" in out and "padding of all: 2.3 %" in out


def test_too_few_buckets_are_a_status(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engine", "plan", str(run), "--max_buckets", "1"]) == 1
    assert "--engine.buckets 300" in capsys.readouterr().out


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        ([], "name at least one run folder"),
        ([str(tmp_path / "nothing")], "no such run folder"),
        ([str(tmp_path)], "found none; trace a run"),
        ([str(tmp_path), "--max_bukets", "3"], "did you mean '--max_buckets'"),
    ):
        assert main(["engine", "plan", *words]) == 1
        assert told in capsys.readouterr().err


def test_an_engine_by_a_wrong_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engine", "check", "--policy", "metaworld_tiny", "--engine", "compield"]) == 1
    assert "did you mean 'compiled'" in capsys.readouterr().err
    assert main(["eval", "sim", "--policy", "metaworld_tiny", "--engine.buckets", "30,20"]) == 1
    assert "lengths must ascend" in capsys.readouterr().err
