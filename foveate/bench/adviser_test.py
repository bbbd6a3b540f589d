"""The adviser's arithmetic, on times that follow its rules, where every answer is known, and on the users' figures."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from foveate.bench.adviser import Base, Plan, advise, fit_steps, knee, needs, predict
from foveate.bench.latency import Row

SEED = {1: 10.10, 2: 19.70, 3: 29.38, 5: 48.87, 10: 97.69}
"""Denoise milliseconds of the users' pipeline by steps."""


def flops(views: int, tokens: int, steps: int | None) -> Mapping[str, float]:
    """A prefill that is linear in the tokens, and denoising of which a tenth is reading 500 tokens."""
    return {"vision": views, "prefill": tokens, "denoise": (steps or 1) * (4500 + tokens)}


def base(**changed) -> Base:
    ms = {"vision": 20.0, "prune": 1.0, "prefill": 50.0, "denoise": 100.0, "other": 4.0}
    options = {"ms": ms, "tokens": 500, "visual": 400, "views": 2, "steps": 10, "flops": flops, "read_ms": 10.0}
    return Base(**{**options, "vision_alone_ms": 15.0, "int8_speed": 2.0, **changed})


def row(ms: Mapping[str, float], other=4.0, **options) -> Row:
    def one(value: float) -> dict[str, float]:
        return dict.fromkeys(("p50", "p95", "p99", "min", "mean"), value)

    facts = {"engine": "eager", "pruning": "none", "denoising_steps": 10, "views": 2, "tokens_before": 500}
    facts |= {"tokens_after": 500, "padding": 0.0, "ready_s": 0, "memory_peak_mb": None, "gflop": {}, "floor_ms": {}}
    facts |= {"fraction_of_peak": {}, "speedup": 1.0, "loses_time": False, "runs": 9, "uncertainty": 0.0, **options}
    stages = {stage: one(value) for stage, value in ms.items()}
    total = one(sum(ms.values()) + other)
    return Row(**facts, model_ms=total, engine_ms=total, policy_ms=total, stages_ms=stages)


def test_the_line_of_the_users_own_figures() -> None:
    """Least squares by hand: the mean of the steps is 4.2, of the times 41.148."""
    line = fit_steps(SEED)
    slope = sum((n - 4.2) * (ms - 41.148) for n, ms in SEED.items()) / sum((n - 4.2) ** 2 for n in SEED)
    assert line.per_step == pytest.approx(slope) and line.per_step == pytest.approx(9.73, abs=0.01)
    assert line.fixed == pytest.approx(41.148 - 4.2 * slope)
    assert [r["steps"] for r in line.table()] == [1, 2, 3, 5, 10]
    assert all(abs(r["error"]) < 0.015 for r in line.table())
    assert fit_steps({4: 8.0})(10) == 20.0  # one number of steps alone: through zero


def test_the_knee_is_where_reading_takes_as_long_as_computing() -> None:
    """0.1 ms a token against 10 ms of reading: 100 tokens."""
    assert knee(base()) == 100
    assert knee(base(read_ms=0.05)) == 1
    assert knee(base(read_ms=60.0)) == 500  # bound by reading already


def test_each_rule_alone() -> None:
    start, line = base(), fit_steps({1: 19.0, 5: 55.0, 10: 100.0})  # 9 ms a step and 10
    assert predict(start, Plan(), line) == start.ms
    assert predict(start, Plan(tokens=200), line)["prefill"] == pytest.approx(20.0)
    assert predict(start, Plan(tokens=200), line)["denoise"] == pytest.approx(100 * 4700 / 5000)
    assert predict(start, Plan(tokens=50), line)["prefill"] == 10.0  # below the knee: reading the weights
    assert predict(start, Plan(steps=1), line)["denoise"] == pytest.approx(19.0)
    assert predict(start, Plan(steps=2))["denoise"] == pytest.approx(20.0)
    assert predict(start, Plan(int8_prefill=True), line)["prefill"] == 25.0
    assert predict(start, Plan(tokens=20, int8_prefill=True), line)["prefill"] == 2.5  # a quarter of the bytes
    assert predict(start, Plan(fast_vision=True), line)["vision"] == 15.0
    assert predict(start, Plan(views=1, fast_vision=True), line)["vision"] == 7.5
    assert predict(start, Plan(tokens=700), line)["prefill"] == pytest.approx(70.0)


def test_what_the_users_need_for_20_hz() -> None:
    """83.5 ms, of which 4 lie outside the stages: the prefill alone must come down from 52.1 to 18.6."""
    ms = {"vision": 17.26, "prune": 0.0, "prefill": 52.14, "denoise": 10.10, "other": 4.0}
    wanted = needs(base(ms=ms), 50.0)
    assert wanted["prefill"] == pytest.approx(50 - 17.26 - 10.10 - 4)
    assert wanted["vision"] is None and wanted["denoise"] is None


def test_what_was_measured_stands_beside_what_was_foretold() -> None:
    start = base()
    times = {stage: ms for stage, ms in start.ms.items() if stage != "other"}
    pruned = {**times, "prune": 3.0, "prefill": 26.0, "denoise": 96.0}
    rows = [
        row(times),
        row({**times, "denoise": 19.0}, denoising_steps=1),
        row(pruned, tokens_after=200, pruning="random_0.25"),
        row(times, engine="compiled"),
    ]
    advice = advise(start, rows, 20.0)
    assert advice.line is not None and (advice.line.per_step, advice.line.fixed) == pytest.approx((9.0, 10.0))
    one, fewer = advice.predictions  # the other engine is not foretold
    assert (one.predicted_ms, one.error) == (pytest.approx(94.0), pytest.approx(0.0))
    assert fewer.predicted_ms == pytest.approx(20 + 3 + 20 + 94 + 4) and fewer.measured_ms == pytest.approx(149.0)
    buys = {remedy.name: remedy.buys_ms for remedy in advice.remedies}
    assert buys["1 denoising step"] == pytest.approx(81.0) and buys["8-bit prefill"] == pytest.approx(25.0)
    assert buys["vision at this machine's own rate"] == pytest.approx(5.0)
    assert buys["prune to 200 tokens"] == pytest.approx(30 + 6)


def test_the_plan_has_the_fewest_changes_that_reach_the_target() -> None:
    start = base()
    rows = [row({stage: ms for stage, ms in start.ms.items() if stage != "other"})]

    def plan(hz: float) -> str | None:
        found = advise(start, rows, hz).plan
        return None if found is None else found.name

    assert plan(5.0) == "as it is"  # 175 ms
    assert plan(10.0) == "1 denoising step"  # 10 of 100 ms: 85 in all
    assert plan(20.0) == "prune to 101 tokens + 1 denoising step"  # 20 + 1 + 10.1 + 9.2 + 4 = 44.3
    assert plan(100.0) is None
    told = "\n".join(advise(start, rows, 20.0).lines())
    assert "pruning knee: every patch" not in told and "knee: below the text's own tokens (100)" in told
    assert "20 Hz (50.0 ms) is reached by prune to 101 tokens + 1 denoising step: 44." in told
