"""Where the time of an inference goes, and what each remedy would buy on this device: arithmetic on measured times.

    advice = advise(base, rows, target_hz=20.0)
    print("\\n".join(advice.lines()))

The rules, each held against what was measured in the same run where there is a row for it:

- vision takes time in proportion to the cameras;
- the prefill takes time in proportion to its FLOP, but never less than reading its weights once: below the **knee**
  dropping tokens buys nothing;
- denoising takes a time per step and a fixed one, fitted to what was measured, and in proportion to its FLOP in the
  number of tokens;
- pruning itself, and what lies around the stages, costs what it cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from foveate.bench.peak import Peak
from foveate.bench.work import Work
from foveate.util.words import percent

if TYPE_CHECKING:
    from foveate.bench.latency import Row

Flops = Callable[[int, int, int | None], Mapping[str, float]]
"""(views, tokens, steps) -> GFLOP by stage, as `ActionModel.flops`."""
PARTS = ("vision", "prune", "prefill", "denoise", "other")
"""Of an inference; `other` is what the stages leave: pre- and post-processing, and the way between stages."""


@dataclass(frozen=True)
class Linear:
    """Denoise time (ms) = per_step x steps + fixed."""

    per_step: float
    fixed: float
    measured: Mapping[int, float]
    """Steps -> milliseconds that it was fitted to."""

    def __call__(self, steps: int) -> float:
        return self.per_step * steps + self.fixed

    def table(self) -> list[dict[str, float]]:
        """`steps, predicted, measured, error` for each number; the error as a share of what was predicted."""
        return [
            {"steps": n, "predicted": self(n), "measured": ms, "error": ms / self(n) - 1}
            for n, ms in sorted(self.measured.items())
        ]


def fit_steps(measured: Mapping[int, float]) -> Linear:
    """Least squares over numbers of steps; from one alone a line through zero."""
    steps, ms = np.array(sorted(measured), float), np.array([measured[n] for n in sorted(measured)])
    if len(steps) == 1:
        return Linear(float(ms[0] / steps[0]), 0.0, dict(measured))
    per_step, fixed = np.polyfit(steps, ms, 1)
    return Linear(float(per_step), float(fixed), dict(measured))


@dataclass(frozen=True)
class Base:
    """The inference that remedies start from."""

    ms: Mapping[str, float]
    """`PARTS` -> milliseconds, medians."""
    tokens: int
    """Of the prefix that the backbone saw."""
    visual: int
    """Those of them that are patches."""
    views: int
    steps: int | None
    flops: Flops
    read_ms: float
    """What reading the prefill's weights takes."""
    vision_alone_ms: float
    """Vision where each of its products ran as fast as alone."""
    weight_bytes: int = 4
    """Of one number of the weights."""
    int8_speed: float | None = None
    """Rate of the prefill's products in 8 bits over that in its own format; None: not measurable on this device."""

    @property
    def total(self) -> float:
        return sum(self.ms.values())

    @classmethod
    def of(cls, row: Row, visual: int, work: Mapping[str, Work], peak: Peak, flops: Flops, weight_bytes: int) -> Base:
        """From a measured row and what the machine can do."""
        ms = {stage: row.stages_ms[stage]["p50"] for stage in PARTS if stage in row.stages_ms}
        ms["other"] = max(0.0, row.policy_ms["p50"] - sum(ms.values()))
        prefill = work["prefill"]
        return cls(
            ms=ms,
            tokens=row.tokens_after,
            visual=visual,
            views=row.views,
            steps=row.denoising_steps,
            flops=flops,
            read_ms=1e3 * peak.read(prefill),
            vision_alone_ms=1e3 * work["vision"].flop / peak.rate(work["vision"]),
            weight_bytes=weight_bytes,
            int8_speed=peak.rate(prefill, quantised=True) / peak.rate(prefill) if peak.quantised else None,
        )


@dataclass(frozen=True)
class Plan:
    """What is done about it."""

    tokens: int | None = None
    """Prefix tokens after pruning; None: as they are."""
    steps: int | None = None
    views: int | None = None
    int8_prefill: bool = False
    fast_vision: bool = False
    """Each product of the tower as fast as alone: what compiling it can give at best."""

    @property
    def changes(self) -> int:
        return sum(value not in (None, False) for value in asdict(self).values())

    @property
    def name(self) -> str:
        parts = [f"prune to {self.tokens} tokens"] if self.tokens is not None else []
        parts += [f"{self.steps} denoising step{'s' * (self.steps != 1)}"] if self.steps is not None else []
        parts += [f"{self.views} camera{'s' * (self.views != 1)}"] if self.views is not None else []
        parts += ["8-bit prefill"] * self.int8_prefill + ["vision at this machine's own rate"] * self.fast_vision
        return " + ".join(parts) or "as it is"


def knee(base: Base) -> int:
    """The fewest prefix tokens at which the prefill still takes longer than reading its weights."""
    scale = base.ms["prefill"] / base.flops(base.views, base.tokens, base.steps)["prefill"]
    enough = [
        n for n in range(1, base.tokens) if scale * base.flops(base.views, n, base.steps)["prefill"] >= base.read_ms
    ]
    return enough[0] if enough else base.tokens


def predict(base: Base, plan: Plan, line: Linear | None = None) -> dict[str, float]:
    """`PARTS` -> milliseconds under a plan.

    Args:
        line: of the base's denoise time over steps; None: through zero.
    """
    tokens, views, steps = plan.tokens or base.tokens, plan.views or base.views, plan.steps or base.steps
    before, after = (base.flops(base.views, n, steps) for n in (base.tokens, tokens))
    ms = dict(base.ms)
    ms["vision"] = (min(base.vision_alone_ms, ms["vision"]) if plan.fast_vision else ms["vision"]) * views / base.views
    read, speed = min(base.read_ms, ms["prefill"]), 1.0
    if plan.int8_prefill:
        read, speed = read / base.weight_bytes, base.int8_speed or 1.0
    ms["prefill"] = max(ms["prefill"] * after["prefill"] / before["prefill"] / speed, read)
    if steps is not None and base.steps is not None:
        fitted = line or fit_steps({base.steps: base.ms["denoise"]})
        ms["denoise"] *= fitted(steps) / fitted(base.steps)
    ms["denoise"] *= after["denoise"] / before["denoise"]
    return ms


def needs(base: Base, budget_ms: float) -> dict[str, float | None]:
    """Stage -> the milliseconds that it alone would have to come down to; None: the others are over the budget."""
    left = {stage: budget_ms - (base.total - base.ms[stage]) for stage in PARTS[:-1]}
    return {stage: ms if ms > 0 else None for stage, ms in left.items()}


@dataclass(frozen=True)
class Remedy:
    """A plan and what it buys."""

    name: str
    predicted_ms: float
    buys_ms: float


@dataclass(frozen=True)
class Prediction:
    """A row of the benchmark, foretold from the first one."""

    name: str
    predicted_ms: float
    measured_ms: float

    @property
    def error(self) -> float:
        return self.measured_ms / self.predicted_ms - 1


@dataclass(frozen=True)
class Advice:
    """What the adviser says."""

    base: Base
    knee_tokens: int
    line: Linear | None
    remedies: list[Remedy]
    predictions: list[Prediction]
    target_hz: float
    needs: Mapping[str, float | None]
    plan: Remedy | None
    """The fewest changes that reach the target; None: none of them does."""
    best: Remedy = field(default_factory=lambda: Remedy("as it is", 0.0, 0.0))
    """All remedies together."""

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "where": {part: {"ms": ms, "share": ms / self.base.total} for part, ms in self.base.ms.items()},
            "total_ms": self.base.total,
            "knee_tokens": self.knee_tokens,
            "prefill_read_ms": self.base.read_ms,
            "int8_speed": self.base.int8_speed,
            "denoise": None
            if self.line is None
            else {"per_step_ms": self.line.per_step, "fixed_ms": self.line.fixed, "steps": self.line.table()},
            "remedies": [asdict(remedy) for remedy in (*self.remedies, self.best)],
            "predictions": [{**asdict(p), "error": p.error} for p in self.predictions],
            "target_hz": self.target_hz,
            "needs_ms": dict(self.needs),
            "plan": None if self.plan is None else asdict(self.plan),
        }

    def lines(self) -> list[str]:
        """The same in sentences."""
        base, budget = self.base, 1e3 / self.target_hz
        shares = ", ".join(f"{part} {ms:.1f} ms ({percent(ms / base.total)})" for part, ms in base.ms.items())
        told = [f"{base.total:.1f} ms ({1e3 / base.total:.1f} Hz): {shares}"]
        knee_visual = self.knee_tokens - (base.tokens - base.visual)
        if self.knee_tokens >= base.tokens:
            told.append(
                f"pruning knee: at {base.tokens} tokens the prefill is bound by reading weights; pruning buys nothing"
            )
        elif knee_visual <= 0:
            told.append(
                f"pruning knee: below the text's own tokens ({base.tokens - base.visual}); every patch dropped counts"
            )
        else:
            told.append(
                f"pruning knee: {self.knee_tokens} tokens, {knee_visual} of {base.visual} patches; fewer buy nothing"
            )
        if self.line is not None:
            told.append(f"Denoise Time (ms) = {self.line.per_step:.2f} x steps + {self.line.fixed:.2f}")
            told += [
                "  {steps:>3} steps: {predicted:.2f} predicted, {measured:.2f} measured, {error:+.1%}".format(**row)
                for row in self.line.table()
            ]
        told += [
            f"{remedy.name}: {remedy.predicted_ms:.1f} ms, buys {remedy.buys_ms:.1f}"
            for remedy in (*self.remedies, self.best)
        ]
        if base.int8_speed is None:
            told.append("8-bit prefill: this device and torch have no 8-bit product to measure")
        elif base.int8_speed <= 1:
            told.append(f"8-bit prefill: its products run at {base.int8_speed:.2f} of the present rate; buys nothing")
        told += [
            f"{p.name}: {p.predicted_ms:.1f} ms predicted, {p.measured_ms:.1f} measured, {p.error:+.0%}"
            for p in self.predictions
        ]
        if base.total <= budget:
            told.append(f"{self.target_hz:g} Hz ({budget:.1f} ms): reached as it is")
            return told
        for stage, ms in self.needs.items():
            now = base.ms.get(stage, 0.0)
            if ms is not None and now > 0:
                told.append(f"{self.target_hz:g} Hz by {stage} alone: {now:.1f} -> {ms:.1f} ms ({now / ms:.1f}x)")
        if all(ms is None for ms in self.needs.values()):
            told.append(f"{self.target_hz:g} Hz ({budget:.1f} ms): no stage alone can do it")
        reached = (
            f"{self.plan.name}: {self.plan.predicted_ms:.1f} ms" if self.plan else "none of these remedies, nor all"
        )
        return [*told, f"{self.target_hz:g} Hz ({budget:.1f} ms) is reached by {reached}"]


def advise(base: Base, rows: Sequence[Row], target_hz: float) -> Advice:
    """Put the arithmetic together.

    Args:
        rows: measured in the same run, the base's own first; those of its engine, also with an 8-bit prefill, are
            foretold from it.
    """
    mine = [row for row in rows if row.engine in (rows[0].engine, _in_int8(rows[0]))]
    same = (rows[0].engine, rows[0].pruning, rows[0].views)
    like = [row for row in mine if (row.engine, row.pruning, row.views) == same]
    line = (
        fit_steps({row.denoising_steps: row.stages_ms["denoise"]["p50"] for row in like if row.denoising_steps})
        if base.steps is not None
        else None
    )
    at_knee = knee(base)
    quarter = base.tokens - base.visual + -(-base.visual // 4)
    tokens = [n for n in dict.fromkeys((quarter, max(at_knee, base.tokens - base.visual + 1))) if n < base.tokens]
    steps = [n for n in ((base.steps or 1) // 2, 1) if 0 < n < (base.steps or 1)]
    int8 = [True] if (base.int8_speed or 0.0) > 1 else []
    single = [Plan(tokens=n) for n in tokens] + [Plan(steps=n) for n in dict.fromkeys(steps)]
    single += [Plan(int8_prefill=True)] * len(int8) + [Plan(fast_vision=True)]

    def remedy(plan: Plan) -> Remedy:
        ms = sum(predict(base, plan, line).values())
        return Remedy(plan.name, ms, base.total - ms)

    plans = [
        Plan(tokens=t, steps=s, int8_prefill=q, fast_vision=v)
        for t, s, q, v in product((None, *tokens), (None, *dict.fromkeys(steps)), (False, *int8), (False, True))
    ]
    found = [(plan.changes, remedy(plan)) for plan in plans]
    budget = 1e3 / target_hz
    reaching = sorted((changes, r.predicted_ms, r.name) for changes, r in found if r.predicted_ms <= budget)
    named = {r.name: r for _, r in found}
    return Advice(
        base=base,
        knee_tokens=at_knee,
        line=line,
        remedies=[remedy(plan) for plan in single],
        predictions=[_prediction(base, row, line, row.engine == _in_int8(rows[0])) for row in mine[1:]],
        target_hz=target_hz,
        needs=needs(base, budget),
        plan=named[reaching[0][2]] if reaching else None,
        best=replace(min(named.values(), key=lambda r: r.predicted_ms)),
    )


def _in_int8(row: Row) -> str:
    """The engine of a row with the prefill in 8 bits."""
    return f"{row.engine}+int8"


def _prediction(base: Base, row: Row, line: Linear | None, int8: bool) -> Prediction:
    """What the base foretells of a row, the row's own cost of pruning taken as it was measured."""
    plan = Plan(
        tokens=row.tokens_after if row.tokens_after != base.tokens else None,
        steps=row.denoising_steps if row.denoising_steps != base.steps else None,
        views=row.views if row.views != base.views else None,
        int8_prefill=int8,
    )
    ms = predict(base, plan, line)
    ms["prune"] = row.stages_ms["prune"]["p50"]
    return Prediction(f"{row.engine}, {row.pruning}, {plan.name}", sum(ms.values()), row.policy_ms["p50"])
