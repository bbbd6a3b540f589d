import csv
import errno
import json
import os

import pytest

from foveate.errors import FoveateError
from foveate.evaluation.sim.results import (
    CSV_COLUMNS,
    RunLog,
    aggregate,
    write_results,
)
from foveate.types import EpisodeResult
from foveate.util import files
from foveate.util.stats import wilson


def episode(index=0, status="success", task="push-v3", **kwargs):
    return EpisodeResult(
        task=task, episode=index, seed=index, variant="full", status=status, steps=40, queries=2, **kwargs
    )


def queries_of(index=0, task="push-v3", kept=(10, 20), total=(30.0, 50.0)):
    return [
        {
            "variant": "full", "task": task, "episode": index, "query": q, "step": 5 * q, "batch": 1, "kept": k,
            "patches": 128, "gflops": 2.0, "vision_ms": 5.0, "prune_ms": 1.0, "prefill_ms": t - 16, "denoise_ms": 10.0,
            "total_ms": t,
        }
        for q, (k, t) in enumerate(zip(kept, total, strict=True))
    ]  # fmt: skip


def test_log_drops_inferences_of_unfinished_episodes(tmp_path):
    log = RunLog(tmp_path / "run")
    log.add(episode(0), queries_of(0))
    log._queries.append(queries_of(1))  # what a kill between the two writes leaves
    log.close()
    log = RunLog(tmp_path / "run")
    assert log.done == {("full", "push-v3", 0)}
    assert [q["episode"] for q in log.queries] == [0, 0]
    log.add(episode(1), queries_of(1))
    log.close()
    assert [q["episode"] for q in RunLog(tmp_path / "run").queries] == [0, 0, 1, 1]
    assert RunLog(tmp_path / "run").episodes[1] == episode(1)


def test_what_two_runs_wrote_twice_is_dropped_and_named(tmp_path):
    log = RunLog(tmp_path)
    for index in (0, 1, 0, 2, 1):
        log.add(episode(index), queries_of(index))
    log.close()
    log = RunLog(tmp_path)
    assert [e.episode for e in log.episodes] == [0, 1, 2] and len(log.queries) == 6
    assert log.warnings == ["episodes.jsonl: written twice, the first counts: push-v3 episode 0, push-v3 episode 1"]
    log.close()
    assert RunLog(tmp_path).warnings == [] and len((tmp_path / "episodes.jsonl").read_text().splitlines()) == 3


def test_aggregate():
    episodes = [episode(0, kept_mean=15.0), episode(1, "failure", kept_mean=30.0), episode(2, "crash", error="died")]
    queries = queries_of(0) + queries_of(1, kept=(30, 30), total=(70.0, 90.0))
    group = aggregate(episodes, queries)
    assert (group["successes"], group["failures"], group["crashes"]) == (1, 1, 1)
    assert group["success_rate"] == pytest.approx(1 / 3) and group["ci95"] == list(wilson(1, 3))
    assert group["kept"]["mean"] == 22.5 and group["kept"]["ratio"] == pytest.approx(22.5 / 128)
    assert group["latency_ms"]["total"] == {"p50": 60.0, "p95": 87.0, "mean": 60.0}
    assert group["latency_ms"]["kv_cache"] == group["latency_ms"]["prefill"]
    assert group["gflops"] == 2.0 and group["prefix_reused"] is None
    assert aggregate([], [])["success_rate"] is None


def test_written_files(tmp_path):
    log = RunLog(tmp_path)
    log.add(episode(0, "crash", task="reach-v3", error="died", extra={"task_id": 1}), [])
    log.add(episode(0, kept_mean=15.0, extra={"task_id": 0}), queries_of(0))
    summary = write_results(log, provenance={"seed": 7}, warnings=["careful"])
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [(r["variant"], r["task"], r["successes"], r["crashes"]) for r in rows] == [
        ("full", "push-v3", "1", "0"),
        ("full", "reach-v3", "0", "1"),
    ]
    assert rows[0]["ms_p50"] == "40" and rows[1]["ms_p50"] == ""
    assert rows[0]["kv_cache_ms_p50"] == rows[0]["prefill_ms_p50"] == "24"
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary["crash_reasons"] == ["reach-v3 episode 0: died"]
    assert summary["warnings"] == ["careful"] and summary["seed"] == 7
    assert summary["total"]["episodes"] == 2
    assert not list(tmp_path.glob(".*"))


def test_full_disk_is_fatal_and_says_so(tmp_path, monkeypatch):
    log = RunLog(tmp_path)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(FoveateError, match=r"disk is full.*same command"):
        log.add(episode(0), [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(FoveateError, match="choose a writable folder"):
        RunLog(tmp_path / "run")


def test_folder_under_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FoveateError, match="choose a writable folder"):
        RunLog(tmp_path / "file" / "run")
