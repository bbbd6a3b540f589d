"""What is known of a run folder without opening a dump, also while it is written and where it holds odd things."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from foveate.errors import FoveateError
from foveate.testing.runs import write_run
from foveate.tracing.store import dump_paths
from foveate.tracing.tokens import write_token_log
from foveate.viz.viewer import run as viewed
from foveate.viz.viewer.run import ViewedRun


@pytest.fixture(autouse=True)
def always_fresh(monkeypatch):
    monkeypatch.setattr(viewed, "FRESH_S", 0)


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "run", tasks=("reach", "push"), episodes=2, queries=3, side=(32, 48))


def unread(monkeypatch):
    def fail(*_):
        raise AssertionError("it opened a dump")

    monkeypatch.setattr(viewed, "read_record", fail)


def test_logs_and_file_names_suffice(folder, monkeypatch):
    write_token_log(folder)
    unread(monkeypatch)
    found = ViewedRun(folder).episodes()
    assert [(e.key, e.task, e.number, e.seed, e.traced) for e in found] == [
        ("0.0", "reach", 0, 0, 3),
        ("0.1", "reach", 1, 1, 3),
        ("1.0", "push", 0, 0, 3),
        ("1.1", "push", 1, 1, 3),
    ]
    assert [e.row["status"] for e in found] == ["success", "success", "failure", "crash"]
    assert [moment.step for moment in found[0].moments] == [0, 5, 10]
    assert found[0].moments[1].row["num_kept"] > 0


def test_without_a_log_one_dump_of_each_task_tells_its_name(folder, monkeypatch):
    (folder / "episodes.jsonl").unlink()
    opened = []
    real = viewed.read_record
    monkeypatch.setattr(viewed, "read_record", lambda path, run: opened.append(path) or real(path, run))
    run = ViewedRun(folder)
    assert [e.task for e in run.episodes()] == ["reach", "reach", "push", "push"]
    run.episodes()
    assert [path.parts[-3:] for path in opened] == [
        ("task000", "ep000", "step00000.pt"),
        ("task001", "ep000", "step00000.pt"),
    ]


def test_a_run_without_a_trace_has_its_logs(tmp_path, monkeypatch):
    unread(monkeypatch)
    episode = {"task": "reach", "episode": 4, "status": "failure", "seed": 4, "extra": {"task_id": 7}}
    (tmp_path / "episodes.jsonl").write_text(json.dumps(episode) + "\n")
    rows = [{"task": "reach", "episode": 4, "step": step, "kept": 20, "patches": 128} for step in (0, 5)]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (only,) = ViewedRun(tmp_path).episodes()
    assert (only.key, only.number, only.seed, only.traced) == ("7.4", 4, 4, 0)
    assert [moment.row["kept"] for moment in only.moments] == [20, 20]
    with pytest.raises(FoveateError, match="step 5: this inference was not traced"):
        ViewedRun(tmp_path).record(only.moments[1])


def test_a_run_that_is_being_written_grows(folder, tmp_path):
    later = tmp_path / "later"
    late = folder / "dumps/task001/ep001"
    shutil.move(late, later)
    lines = (folder / "episodes.jsonl").read_text().splitlines(keepends=True)
    (folder / "episodes.jsonl").write_text("".join(lines[:3]) + lines[3][:40])  # its last line is half written
    run = ViewedRun(folder)
    assert [e.key for e in run.episodes()] == ["0.0", "0.1", "1.0"]
    assert run.warnings["episodes.jsonl"] == []
    late.mkdir()
    shutil.copy(later / "step00000.pt", late)
    (late / ".step00005.pt.draft").write_bytes(b"")  # drafts are nobody's
    assert run.episode("1.1").traced == 1 and run.episode("1.1").row == {}
    shutil.copy(later / "step00005.pt", late)
    (folder / "episodes.jsonl").write_text("".join(lines))
    assert run.episode("1.1").traced == 2 and run.episode("1.1").row["status"] == "crash"


def test_a_dump_that_is_replaced_is_read_again(folder):
    run = ViewedRun(folder)
    moment = run.episode("0.0").moments[0]
    before = run.record(moment)
    assert run.record(moment) is before
    shutil.copy(dump_paths(folder)[1], moment.dump)
    assert run.record(moment).meta["step"] == 5
    moment.dump.unlink()
    with pytest.raises(FoveateError, match="not a readable dump"):
        run.record(moment)


def test_only_so_many_records_stay_in_memory(folder, monkeypatch):
    monkeypatch.setattr(viewed, "RECORDS", 2)
    run = ViewedRun(folder)
    for moment in run.episode("0.0").moments:
        run.record(moment)
    assert len(run._records) == 2


@pytest.mark.parametrize(
    ("names", "keys", "steps"),
    [
        (["task003/ep012/a.pt", "task003/ep012/b.pt"], ["3.12"], [0, 1]),
        (["mine/one.pt", "mine/two.pt", "three.pt"], [".", "mine"], [0]),
        (["task1_ep2_step30.pt", "task1_ep2_step4.pt"], ["1.2"], [4, 30]),
    ],
)
def test_odd_names_are_found(folder, tmp_path, names, keys, steps):
    for name in names:
        path = tmp_path / "odd/dumps" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(dump_paths(folder)[0], path)
    found = ViewedRun(tmp_path / "odd").episodes()
    assert [episode.key for episode in found] == keys
    assert [moment.step for moment in found[0].moments] == steps


def test_links_lead_nowhere(folder, tmp_path):
    run = ViewedRun(folder)
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copy(dump_paths(folder)[0], outside / "step00000.pt")
    os.symlink(outside, folder / "dumps/task000/ep009")
    os.symlink(outside / "step00000.pt", folder / "dumps/task000/ep000/step00099.pt")
    (folder / "episodes.jsonl").rename(outside / "episodes.jsonl")
    os.symlink(outside / "episodes.jsonl", folder / "episodes.jsonl")
    assert [e.key for e in run.episodes()] == ["0.0", "0.1", "1.0", "1.1"]  # a linked folder is none
    assert all(e.row == {} for e in run.episodes())
    with pytest.raises(FoveateError, match="lies outside the run folder"):
        run.record(run.episode("0.0").moments[-1])


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(FoveateError, match="no such run folder"):
        ViewedRun(tmp_path / "nothing")
    with pytest.raises(FoveateError, match="no run folder; expected dumps/"):
        ViewedRun(tmp_path)
    (tmp_path / "mine" / "dumps").mkdir(parents=True)
    with pytest.raises(FoveateError, match=r"it holds runs: .*mine"):
        ViewedRun(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(FoveateError, match="a file, no run folder"):
        ViewedRun(tmp_path / "file")
