"""`foveate bench latency` from end to end on a tiny model: rows, document, table, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest

from foveate.bench.latency import LatencyConfig, measure_latency
from foveate.bench.variants import Variant, engines_of, matrix, pruner_config
from foveate.cli.main import main
from foveate.engine import precision
from foveate.engine.config import Compiled, Eager
from foveate.errors import FoveateError
from foveate.models.pi0.flops_test import TINY
from foveate.policy import LoadOptions
from foveate.training.policy import untrained


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    config = dataclasses.replace(TINY, views=("a", "b", "c"), vocab_size=1024, action_dim=8)
    monkeypatch.setitem(untrained.SIZES, "pi05_mid", config)


def test_a_matrix_is_measured_and_told(tmp_path, capsys):
    out = tmp_path / "results.json"
    words = ["bench", "latency", "--random_weights", "pi05_mid", "--quick", "--pruning", "none,random_0.25"]
    assert main([*words, "--denoising_steps", "1,4", "--views", "1,3", "--output_file", str(out)]) == 0
    shown, document = capsys.readouterr().out, json.loads(out.read_text())
    table, _, printed = shown.partition("\n{\n")
    assert json.loads("{\n" + printed) == document
    assert "pruning knee" in table and "Denoise Time (ms) = " in table and "20 Hz" in table
    rows = document["rows"]
    keys = [(r["pruning"], r["denoising_steps"], r["views"]) for r in rows]
    assert keys == [(p, s, v) for p in ("none", "random_0.25") for s in (1, 4) for v in (1, 3)]
    for r in rows:
        text = r["tokens_before"] - 16 * r["views"]
        assert r["tokens_after"] == text + (4 if r["pruning"] != "none" else 16) * r["views"]
        parts = sum(r["stages_ms"][stage]["min"] for stage in ("vision", "prefill", "denoise"))
        assert 0 < parts <= r["model_ms"]["p50"] <= r["engine_ms"]["p50"] <= r["policy_ms"]["p50"]
        assert r["stages_ms"]["kv_cache"] == r["stages_ms"]["prefill"] and r["runs"] == 6 and r["ready_s"] > 0
        assert r["policy_ms"]["min"] <= r["policy_ms"]["p50"] <= r["policy_ms"]["p95"] <= r["policy_ms"]["p99"]
        assert r["gflop"]["total"] == pytest.approx(sum(r["gflop"][s] for s in ("vision", "prefill", "denoise")))
        assert r["memory_peak_mb"] is None or r["memory_peak_mb"] > 10
    first = rows[0]
    assert first["speedup"] == 1.0 and first["loses_time"] is False
    assert rows[2]["speedup"] == 1.0  # four steps, against four steps unpruned
    assert rows[6]["speedup"] == pytest.approx(rows[2]["policy_ms"]["p50"] / rows[6]["policy_ms"]["p50"])
    assert rows[6]["loses_time"] == (rows[6]["speedup"] < 1)
    assert document["adviser"]["predictions"][0]["name"].startswith("eager, none")
    assert len(document["adviser"]["predictions"]) == 7
    assert document["adviser"]["denoise"]["steps"][0]["steps"] == 1
    assert document["peak"]["products_gflops"] and document["conditions"]["before"]["load_average"] >= 0


def test_each_remedy_alone_and_all_together_are_foretold_and_measured(monkeypatch):
    monkeypatch.setattr(precision, "int8_speed", lambda: 1.7)
    config = LatencyConfig(
        random_weights="pi05_mid",
        quick=True,
        engines=("eager", "eager+int8"),
        pruning=("none", "random_0.25"),
        denoising_steps=(4, 1),
    )
    measured = measure_latency(config)
    names = [p.name for p in measured.advice.predictions]
    assert names == [
        "eager, none, 1 denoising step",
        "eager, random_0.25, prune to 19 tokens",
        "eager, random_0.25, prune to 19 tokens + 1 denoising step",
        "eager+int8, none, 8-bit prefill",
        "eager+int8, none, 1 denoising step + 8-bit prefill",
        "eager+int8, random_0.25, prune to 19 tokens + 8-bit prefill",
        "eager+int8, random_0.25, prune to 19 tokens + 1 denoising step + 8-bit prefill",
    ]
    assert measured.facts["engines"][2]["int8"]["layers"] > 0


def test_rows_of_one_policy_differ_in_what_they_say_alone():
    measured = measure_latency(LatencyConfig(random_weights="pi05_mid", quick=True))
    (row,) = measured.rows
    assert (row.engine, row.pruning, row.denoising_steps, row.views) == ("eager", "none", 4, 2)
    assert row.padding == 0.0


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "name a policy with --policy, or a size with --random_weights"),
        (["--random_weights", "pi05_mid", "--policy", "x"], "one of them"),
        (["--random_weights", "pi05_mdi"], "did you mean 'pi05_mid'"),
        (["--random_weights", "pi05_mid", "--engines", "eger"], "did you mean 'eager'"),
        (["--random_weights", "pi05_mid", "--engines", "eager+int"], "did you mean 'int8'"),
        (["--random_weights", "pi05_mid", "--engines", "eager", "--engine", "compiled"], "one of them"),
        (["--random_weights", "pi05_mid", "--pruning", "lightvl"], "did you mean 'lightvla'"),
        (["--random_weights", "pi05_mid", "--pruning", "random_few"], "a share below 1 or a number of patches"),
        (["--random_weights", "pi05_mid", "--pruning", "checkpoint"], "came without a pruner"),
        (["--random_weights", "pi05_mid", "--views", "4"], "takes 1 to 3 cameras (a, b, c)"),
        (["--random_weights", "pi05_mid", "--denoising_steps", "0"], "denoising_steps: expected at least 1, got 0"),
        (["--random_weights", "pi05_mid", "--target_hz", "0"], "target_hz: expected inferences per second above 0"),
    ],
)
def test_what_makes_no_sense_is_named(flags, told, capsys):
    assert main(["bench", "latency", "--quick", *flags]) == 1
    assert told in capsys.readouterr().err


def test_presets_to_compare_keep_the_engine_s_other_options() -> None:
    config = LoadOptions(policy="x", engine=Eager(buckets=(8, 16), compile_pruned=False))
    made = engines_of(("eager", "compiled+int8"), config)
    assert made["compiled+int8"] == Compiled(buckets=(8, 16), compile_pruned=False, prefill_precision="int8")
    assert made["eager"] == config.engine


def test_labels_of_variants():
    assert pruner_config("checkpoint") is None
    assert pruner_config("random_0.25").keep_ratio == 0.25 and pruner_config("stride_16").keep_tokens == 16
    policy = untrained.untrained_policy("pi05_mid")
    assert [v.name for v in matrix(policy, ("eager", "compiled"), ("none",), (1,), (2, None))] == [
        "eager_none_1steps_2views", "eager_none_1steps", "compiled_none_1steps_2views", "compiled_none_1steps"
    ]  # fmt: skip
    assert matrix(policy, ("eager",), ("none",), ()) == [Variant("eager", "none", 4)]
    with pytest.raises(FoveateError, match="unknown option 'keep_ratio'"):
        pruner_config("none_0.25")
