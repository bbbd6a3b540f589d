"""The folder of answers: what it is mixed with, and who may write at once."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from foveate.errors import FoveateError
from foveate.evaluation.vqa.cache import PassCache

META = {"model": "m", "prompt": "p"}


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("row\n")
    with pytest.raises(
        FoveateError, match=r"expected an empty folder or one with a meta\.json, found results\.csv; name"
    ):
        PassCache(tmp_path, META)
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_what_processes_that_begin_leave_is_no_content(tmp_path: Path) -> None:
    for name in (".meta.json.123.draft", ".writer0.lock"):
        (tmp_path / name).write_text("")
    cache = PassCache(tmp_path, META)
    cache.add("FULL", [{"key": "k"}])
    cache.close()
    (tmp_path / "results.csv").write_text("row\n")  # beside a meta.json anything may lie
    assert PassCache(tmp_path, META).rows("FULL") == {"k": {"key": "k"}}
    with pytest.raises(FoveateError, match=r"made otherwise \(prompt: 'p' there, 'q' now"):
        PassCache(tmp_path, META | {"prompt": "q"})


def _fill(folder: Path, count: int, number: int) -> None:
    for i in range(count):
        cache = PassCache(folder / str(i), META)
        cache.add("FULL", [{"key": f"{number}"}])
        cache.close()


def test_processes_may_begin_at_once(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_fill, args=(tmp_path, 30, n)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert all(set(PassCache(tmp_path / str(i), META).rows("FULL")) == set("0123") for i in range(30))
