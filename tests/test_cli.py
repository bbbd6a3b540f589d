"""The `foveate` command: its table, its speed, its exit statuses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from foveate.cli import main as cli
from foveate.cli.main import VERBS, main
from foveate.errors import FoveateError
from foveate.testing.golden import REPO


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_every_verb_is_there_and_explains_itself(words: tuple[str, ...], capsys) -> None:
    assert callable(cli.resolve(words))
    with pytest.raises(SystemExit) as leaving:
        main([*words, "--help"])
    assert leaving.value.code == 0
    assert f"foveate {' '.join(words)}" in capsys.readouterr().out


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_every_verb_names_the_nearest_flag(words: tuple[str, ...], capsys) -> None:
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    flag = re.findall(r"^  --([a-z_.]+) ", capsys.readouterr().out, re.MULTILINE)[-1]
    assert main([*words, f"--{flag}x"]) == 1
    assert f"unknown option '--{flag}x'; did you mean '--{flag}'" in capsys.readouterr().err


def test_help_answers_without_torch_and_at_once() -> None:
    def start() -> float:
        begin = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "foveate", "--help"], cwd=REPO, capture_output=True, text=True
        )
        assert done.returncode == 0 and "trace report" in done.stdout
        for heavy in ("torch", "jsonargparse", "numpy", "rich", "yaml"):
            assert f"| {heavy}\n" not in done.stderr, f"--help imports {heavy}"
        return time.perf_counter() - begin

    # The wall clock counts only where nothing else takes the cores; what is imported counts always.
    limit = 0.5 if os.getloadavg()[0] < (os.cpu_count() or 1) else 60.0
    assert min(start() for _ in range(3)) < limit


def test_unknown_verbs_are_told_apart(capsys) -> None:
    for argv, said in (
        (["doctr"], "did you mean `foveate doctor`?"),
        (["trace", "plto"], "did you mean `foveate trace plot`?"),
        (["trce", "plot"], "did you mean `foveate trace plot`?"),
        (["xyzzy"], "`foveate --help` lists the verbs"),
    ):
        assert main(argv) == 2
        assert said in capsys.readouterr().err


def test_help_of_a_group_and_of_nothing(capsys) -> None:
    assert main(["trace", "--help"]) == 0
    out = capsys.readouterr().out
    assert "trace tokens" in out and "eval sim" not in out
    assert main(["trace"]) == 2 and main([]) == 2
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("foveate ")


def test_underscore_and_dash_are_one_in_verbs() -> None:
    assert cli.split_verb(["data", "metaworld_demos", "--x"]) == (("data", "metaworld-demos"), ["--x"])


def test_exit_statuses(monkeypatch, capsys) -> None:
    def fails(error: BaseException):
        def verb(argv: list[str]) -> int:
            raise error

        return verb

    monkeypatch.setattr(cli, "resolve", lambda words: lambda argv: len(argv))
    assert main(["doctor", "a", "b"]) == 2
    monkeypatch.setattr(cli, "resolve", lambda words: fails(FoveateError("the camera is missing; add it")))
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err == "foveate doctor: the camera is missing; add it\n"
    monkeypatch.setattr(cli, "resolve", lambda words: fails(KeyboardInterrupt()))
    assert main(["doctor"]) == 130


def test_a_full_disk_is_one_sentence(monkeypatch, capsys) -> None:
    full = OSError(28, "No space left on device", "runs/a/b.png")

    def fails(_: list[str]) -> int:
        raise full

    monkeypatch.setattr(cli, "resolve", lambda words: fails)
    assert main(["doctor"]) == 1
    told = capsys.readouterr().err
    assert told == "foveate doctor: runs/a/b.png: the disk is full; free some space and run the same command again\n"


def test_sigterm_ends_as_ctrl_c_does(monkeypatch, capsys) -> None:
    put_in_order = []

    def verb(_: list[str]) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            put_in_order.append(True)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cli, "resolve", lambda words: verb)
    assert main(["doctor"]) == 143 and put_in_order
    assert capsys.readouterr().err == "foveate: told to end (SIGTERM)\n"
    assert signal.getsignal(signal.SIGTERM) == before
