import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from safetensors import SafetensorError

from foveate.errors import FoveateError
from foveate.testing.faults import UNEXPECTED
from foveate.util import files
from foveate.util.files import (
    CannotWrite,
    JsonLines,
    alone_in,
    draft,
    draft_folder,
    fault_of,
    full_disk,
    nan_to_null,
    one_process,
    read_json,
    read_json_lines,
    write_bytes,
    write_json,
    write_text,
)


def test_a_draft_takes_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.npz"
    write_text(path, "old")
    with draft(path) as begun:
        assert begun == tmp_path / "new" / ".a.npz.draft"
        begun.write_text("whole")
        assert path.read_text() == "old"
    assert path.read_text() == "whole" and os.listdir(path.parent) == ["a.npz"]
    with draft(path, suffix=".draft.npz", shared=True) as begun:
        assert begun.name == f".a.npz.{os.getpid()}.draft.npz"
        begun.write_text("again")
    assert path.read_text() == "again" and os.listdir(path.parent) == ["a.npz"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_fails_leaves_the_old_file_and_no_draft(tmp_path, error):
    path = tmp_path / "a"
    write_text(path, "old")

    def fail() -> None:
        with draft(path) as begun:
            begun.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_an_error_of_the_disk_names_file_and_reason(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite, match=r"file/a: cannot be written there \(.*\); choose a writable folder"):
        write_text(tmp_path / "file" / "a", "text")
    with pytest.raises(CannotWrite, match=r"file/a: the maps cannot be written there"):
        write_bytes(tmp_path / "file" / "a", b"", "the maps")
    with pytest.raises(CannotWrite, match="cannot be written there"), draft_folder(tmp_path / "file" / "a"):
        pass
    write_text(tmp_path / "a", "old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(CannotWrite, match=r"a: the disk is full; .*same command") as caught:
        write_text(tmp_path / "a", "new")
    assert caught.value.reason == "No space left on device"
    assert (tmp_path / "a").read_text() == "old" and not list(tmp_path.glob(".*"))
    write_bytes(tmp_path / "a", b"new", sync=False)
    assert (tmp_path / "a").read_text() == "new"


def _chained(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        av.error.OSError(errno.ENOSPC, "No space left on device", "a.mp4"),
        OSError("Unable to synchronously flush file (errno = 28, error message = 'No space left on device')"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos 64 vs 0"),
        RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
        OSError(errno.EFBIG, "File too large"),
        _chained(KeyError("odd"), OSError(errno.EDQUOT, "Disk quota exceeded")),
    ],
)
def test_a_full_disk_is_known_whoever_met_it(tmp_path, error):
    told = full_disk(error, tmp_path)
    assert (
        told is not None
        and str(told) == f"{tmp_path}: the disk is full; free some space and run the same command again"
    )
    with pytest.raises(CannotWrite, match="the disk is full"):
        fault_of(error)

    def write() -> None:
        with draft_folder(tmp_path / "new") as begun:
            (begun / "half").write_text("half")
            raise error

    with pytest.raises(CannotWrite, match="new: the disk is full"):
        write()
    assert not os.listdir(tmp_path)


def test_errors_in_a_circle_are_no_full_disk():
    first, second = KeyError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first
    assert full_disk(first) is None


@pytest.mark.parametrize("error", UNEXPECTED, ids=lambda error: type(error).__name__)
def test_other_faults_are_those_of_an_item(error):
    assert full_disk(error) is None and fault_of(error, "item 3").startswith(f"item 3: {type(error).__name__}")
    assert fault_of(FoveateError("item 3 is odd"), "item 3") == "item 3 is odd"


def test_a_draft_folder_replaces_the_older_one(tmp_path):
    path = tmp_path / "step"
    (tmp_path / ".step.draft").mkdir()
    (tmp_path / ".step.draft" / "stale").write_text("of a killed run")
    for name in ("a", "b"):
        with draft_folder(path) as begun:
            (begun / "inner").mkdir()
            (begun / "inner" / name).write_text(name)
    assert [p.name for p in (path / "inner").iterdir()] == ["b"] and os.listdir(path) == ["inner"]

    def fail() -> None:
        with draft_folder(path) as begun:
            (begun / "c").write_text("half")
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert os.listdir(path) == ["inner"] and os.listdir(tmp_path) == ["step"]


WRITER = """
import sys, time
from pathlib import Path
from foveate.util.files import draft, draft_folder
path = Path(sys.argv[1])
with draft(path) as begun, draft_folder(path.with_name("folder")) as folder:
    begun.write_text("new, half of it")
    (folder / "a").write_text("new, half of it")
    print("begun", flush=True)
    time.sleep(60)
"""


def test_a_writer_killed_before_the_rename_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "a.json"
    write_text(path, "old")
    with draft_folder(tmp_path / "folder") as begun:
        (begun / "a").write_text("old")
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "begun\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert path.read_text() == "old" and (tmp_path / "folder" / "a").read_text() == "old"
    assert (tmp_path / ".a.json.draft").exists()
    write_text(path, "new")
    assert path.read_text() == "new" and sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["a.json"]


HOLDER = """
import sys, time
from pathlib import Path
from foveate.util.files import one_process
with one_process(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_holds_a_folder_and_a_killed_one_does_not_block(tmp_path):
    folder = tmp_path / "run"
    child = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        with pytest.raises(FoveateError, match=f"process {child.pid} is training there; wait for it"):
            one_process(folder, "training").__enter__()
        with pytest.raises(FoveateError, match=f"process {child.pid} is training there; wait for it"):
            one_process(folder, "evaluating").__enter__()
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    with one_process(tmp_path / "new" / "run", "failing"):
        pass
    assert os.listdir(tmp_path) == ["run"]  # nothing is left of a folder that nothing was written to
    for _ in range(2):  # killed, and ended in order
        with one_process(folder, "training"):
            with pytest.raises(FoveateError, match=f"process {os.getpid()} is training there"):
                one_process(folder, "training").__enter__()
            with one_process(folder / ".." / "run", "evaluating"):  # a part of it, in the same process
                pass
            with pytest.raises(FoveateError, match="is training there"):
                one_process(folder, "training").__enter__()
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite, match="cannot be written there"):
        one_process(tmp_path / "file" / "run", "training").__enter__()


def test_a_function_holds_the_folder_that_its_first_argument_names(tmp_path):
    @alone_in(lambda name: tmp_path / name if name else None, "counting")
    def count(name, deeper=None):
        return (name, deeper and count(deeper))

    assert count("a", "b") == ("a", ("b", None)) and count(name="a") == ("a", None) and count("") == ("", None)
    with pytest.raises(FoveateError, match=f"a: process {os.getpid()} is counting there"):
        count("a", "a")


def test_rows_that_came_twice_are_dropped_and_named(tmp_path):
    lines = JsonLines(tmp_path / "a.jsonl")
    lines.append([{"key": i % 3, "value": i} for i in range(5)])
    lines.close()
    lines = JsonLines(tmp_path / "a.jsonl", lambda row: row["key"])
    assert [row["value"] for row in lines.rows] == [0, 1, 2] and [row["value"] for row in lines.dropped] == [3, 4]
    lines.append([{"key": 3, "value": 5}])
    lines.close()
    assert [row["value"] for row in read_json_lines(tmp_path / "a.jsonl")] == [0, 1, 2, 5]
    with pytest.raises(FoveateError, match=r"a\.jsonl: a line has no 'other'"):
        JsonLines(tmp_path / "a.jsonl", lambda row: row["other"])


def test_nan_becomes_null(tmp_path):
    value = {
        1: [math.nan, math.inf, 0.123456],
        "array": np.array([1.0, np.nan]),
        "scalars": (np.float32(0.5), np.int64(3), np.bool_(True), None, "text"),
        "nothing": np.float64("nan"),
    }
    expected = {
        "1": [None, None, 0.123456],
        "array": [1.0, None],
        "scalars": [0.5, 3, True, None, "text"],
        "nothing": None,
    }
    assert nan_to_null(value) == expected
    assert nan_to_null(value, digits=2)["1"] == [None, None, 0.12]
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text()) == expected


def test_read_json_names_the_file(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(FoveateError, match=r"a\.json: cannot be read"):
        read_json(path)
    path.write_text("{")
    with pytest.raises(FoveateError, match=r"a\.json: not JSON"):
        read_json(path)
    path.write_text("[1]")
    with pytest.raises(FoveateError, match="expected a JSON object, got list"):
        read_json(path)
    path.write_text('{"a": "π"}', encoding="utf-8")
    assert read_json(path) == {"a": "π"}


def test_torn_last_line_is_dropped(tmp_path):
    path = tmp_path / "episodes.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a": ')
    lines = JsonLines(path)
    assert lines.rows == [{"a": 1}, {"a": 2}]
    lines.append([{"a": 3}])
    lines.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_broken_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "episodes.jsonl").write_text('{"a": 1}\nnot json\n{"a": 3}\n')
    with pytest.raises(FoveateError, match=r"line 2.*not json"):
        JsonLines(tmp_path / "episodes.jsonl")


def test_lines_are_read_and_replaced(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = JsonLines(path)
    lines.append([{"a": 1}, {"a": "π"}])
    lines.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"a": 2')
    assert read_json_lines(path) == [{"a": 1}, {"a": "π"}]
    lines = JsonLines(path)
    assert lines.rows == [{"a": 1}, {"a": "π"}] and path.read_bytes() == whole
    lines.replace([{"a": 3}])
    lines.append([{"a": 4}])
    lines.close()
    assert read_json_lines(path) == [{"a": 3}, {"a": 4}]
    for wrong in (b'{"a', b"[1]"):
        path.write_bytes(b'{"a": 1}\n' + wrong + b'\n{"a": 2}\n')
        for read in (read_json_lines, JsonLines):
            with pytest.raises(FoveateError, match=r"a\.jsonl, line 2: expected one JSON object, got .*remove that"):
                read(path)


APPENDER = """
import sys
from pathlib import Path
from foveate.util.files import JsonLines
lines = JsonLines(Path(sys.argv[1]))
number = len(lines.rows)
while True:
    lines.append([{"number": number, "text": "x" * 5000}])
    number += 1
    print(number, flush=True)
"""


def test_lines_survive_kill(tmp_path):
    path, told = tmp_path / "a.jsonl", 0
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", APPENDER, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
        told = max([told, *(int(line) for line in child.stdout.read().splitlines() if line)])
        child.wait()
        assert [row["number"] for row in read_json_lines(path)][:told] == list(range(told))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_closing_on_a_full_disk_does_not_hide_what_was_said(tmp_path):
    lines = JsonLines(tmp_path / "lines.jsonl")
    lines.close()
    lines._file = open("/dev/full", "a+b")  # noqa: SIM115
    with pytest.raises(FoveateError, match="disk is full"):
        lines.append([{"a": 1}])
    lines.close()


def test_byte_order_marks_are_no_part_of_a_text(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    (tmp_path / "a.txt").write_bytes(mark + b"push the puck\n" + mark + b"again")
    assert files.read_text(tmp_path / "a.txt") == "push the puck\nagain"
    (tmp_path / "a.json").write_bytes(mark + b'{"a": 1}')
    assert files.read_json(tmp_path / "a.json") == {"a": 1}
