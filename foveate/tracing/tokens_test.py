"""The token log on a made-up run, on other programs' dumps and among damaged files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from foveate.errors import FoveateError
from foveate.testing.runs import write_run
from foveate.tracing.record import read_record, to_record
from foveate.tracing.store import dump_paths, read_dump
from foveate.tracing.summary import statistics
from foveate.tracing.tokens import write_capabilities, write_token_log


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), queries=4, side=(32, 48))


def test_a_line_per_inference_in_order_of_time(run):
    log = write_token_log(run)
    rows = [json.loads(line) for line in (run / "report/tokens.jsonl").read_text().splitlines()]
    assert rows == log.rows and len(rows) == 3 * 2 * 4
    assert [r["sample_id"] for r in rows] == sorted(r["sample_id"] for r in rows)
    first, second = rows[:2]
    assert first["dump"] == "dumps/task000/ep000/step00000.pt"
    assert first["num_kept"] == sum(first["kept"].values()) == round(first["kept_ratio"] * 128)
    assert first["delta_seq_len"] == first["pre_seq_len"] - first["post_seq_len"] == 128 - first["num_kept"]
    assert first["prefill_ms"] == first["kv_cache_ms"] == pytest.approx(3 + first["num_kept"] / 20)
    assert "keep_iou" not in first
    masks = [read_record(path, run).keep_mask for path in dump_paths(run)[:2]]
    assert second["keep_iou"] == pytest.approx((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())


@pytest.mark.parametrize("name", ["prefill", "kv_cache"])
def test_either_name_of_the_prefill_will_do(run, name):
    path = dump_paths(run)[0]
    record = to_record({**read_dump(path), "perf": {"stages_ms": {name: 7.0, "denoise": 2.0}}}, path, run)
    assert record.stages_ms == {"prefill": 7.0, "kv_cache": 7.0, "denoise": 2.0}


def test_summary_has_statistics_and_coverage(run):
    rows = write_token_log(run, diagnose=lambda records: [f"{len(records)} scored"]).rows
    summary = json.loads((run / "report/tokens_summary.json").read_text())
    kept = [r["num_kept"] for r in rows]
    assert summary["statistics"]["num_kept"] == statistics(kept)
    assert summary["statistics"]["num_kept"]["p95"] == pytest.approx(np.percentile(kept, 95))
    assert summary["coverage"]["keep_iou"] == {"count": 18, "ratio": 0.75}
    assert summary["coverage"]["kept.corner"]["ratio"] == 1.0
    assert "task_id" not in summary["statistics"] and "episode" in summary["coverage"]
    assert summary["episodes"] == 6
    assert summary["warnings"] == ["24 scored"]
    assert summary["unreadable"] == [] and summary["schema_problems"] == {}


def test_capabilities_say_what_the_dumps_hold(run):
    content = write_capabilities(run)
    assert content == json.loads((run / "report/capabilities.json").read_text())
    assert content["dumps"] == 24 and content["attn_layers"] == [1, 2]
    assert content["capabilities"]["router_scores"] == {"available": True, "count": 24, "ratio": 1.0}
    assert content["capabilities"]["raw_score"] == {"available": False, "count": 0, "ratio": 0.0}


def test_damaged_dumps_are_named_and_skipped(tmp_path):
    run = write_run(tmp_path, tasks=("reach",), episodes=1, queries=4, side=(32, 32))
    paths = dump_paths(run)
    paths[1].write_bytes(b"not a dump")
    dump = torch.load(paths[2], weights_only=True)
    dump["routing"]["keep_mask"] = torch.ones(5, dtype=torch.bool)
    torch.save(dump, paths[2])
    log = write_token_log(run)
    assert [r["step"] for r in log.rows] == [0, 15]
    assert "step00005.pt: not a readable dump" in log.unreadable[0]
    assert "keep_mask has 5 patches, the grids of align have 128" in log.unreadable[1]
    assert log.summary["unreadable"] == log.unreadable


def test_dumps_of_another_program_with_fewer_fields(tmp_path):
    """As the LightVLA scripts write them: a batch axis, no view names, no step in the meta."""
    folder = tmp_path / "dumps/task002/ep001"
    folder.mkdir(parents=True)
    mask = torch.zeros(1, 8, dtype=torch.bool)
    mask[0, [1, 5, 6]] = True
    for step in (3, 7):
        dump = {
            "schema_version": "v1",
            "meta": {"instruction": "pick up the bowl"},
            "align": {"patch_grids": [[2, 2], [2, 2]], "num_images_in_input": 2},
            "routing": {"keep_mask": mask, "router_scores": torch.rand(1, 8), "seq_lens": {"pre_seq_len": 20}},
            "capabilities": {"routing": True},
        }
        torch.save(dump, folder / f"step{step}.pt")
    log = write_token_log(tmp_path)
    assert [(r["task_id"], r["episode"], r["step"]) for r in log.rows] == [(2, 1, 3), (2, 1, 7)]
    assert log.rows[0]["kept"] == {"img0": 1, "img1": 2} and log.rows[0]["kept_ratio"] == 3 / 8
    assert log.rows[1]["keep_iou"] == 1.0
    assert "delta_seq_len" not in log.rows[0]
    assert log.summary["coverage"]["pre_seq_len"]["ratio"] == 1.0
    assert log.summary["schema_problems"]["meta.step: missing"] == 2


def test_a_folder_without_dumps_is_an_error(tmp_path):
    with pytest.raises(FoveateError, match="no such run folder"):
        write_token_log(tmp_path / "nothing")
    with pytest.raises(FoveateError, match=r"expected dumps/taskXXX/epYYY/\*\.pt"):
        write_token_log(tmp_path)
