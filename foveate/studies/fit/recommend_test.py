from __future__ import annotations

from dataclasses import replace

from foveate.studies.fit.recommend import recommend
from foveate.studies.fit.table import Estimate, FitRow, Paired, Table
from foveate.studies.fit.timing import Timed


def row(method: str, budget: float, error: float, better: bool = False, ms: float = 5.0) -> FitRow:
    gap = Paired(Estimate(-0.1, -0.2, -0.05, 40), 0.001 if better else 0.4)
    against = {} if method in ("random", "stride") else {"random": gap, "stride": gap}
    columns = {"critical": Estimate(error, error - 0.01, error + 0.01, 40)}
    kept, gflops = 8 * budget, 1 + budget
    return FitRow(f"{method}_{budget}", method, budget, kept, 8.0, gflops, columns, error, Timed(ms, {}), against)


def table(*rows: FitRow, critical: int = 40) -> Table:
    unpruned = FitRow("none", "none", None, 8.0, 8.0, 2.0, {}, 0.0, Timed(10.0, {}), {})
    blind = {"critical": Estimate(1.0, 0.9, 1.1, 40)}
    ordered = sorted(rows, key=lambda row: row.columns["critical"].mean)
    return Table(ordered, unpruned, blind, {}, 100, {"any": critical}, 8, 10)


BARS = (row("random", 0.5, 0.2), row("stride", 0.5, 0.21), row("random", 0.25, 0.4), row("stride", 0.25, 0.5))


def test_the_smallest_budget_that_stays_near_and_beats_both_controls_is_named() -> None:
    rows = (*BARS, row("dart", 0.5, 0.1, True), row("dart", 0.25, 0.2, True), row("fastv", 0.25, 0.15, True))
    verdict = recommend(table(*rows), 0.25)
    assert verdict.row is not None and verdict.row.label == "fastv_0.25"
    assert verdict.lines[0] == "recommended: fastv at 25 % (keeps 2 of 8 patches, 1.25 of 2 GFLOP, 5.0 of 10.0 ms)"
    assert "50 %: best is dart, 10 % of blind; it beats random and stride" in verdict.lines


def test_a_method_that_keeps_more_than_its_budget_is_told_of() -> None:
    more = replace(row("vla_adp", 0.25, 0.1, True), kept=6.0, gflops=1.7)
    verdict = recommend(table(*BARS, more), 0.25)
    assert verdict.row is more and verdict.lines[-1].startswith("vla_adp at 25 % keeps more than 25 % on average")
    assert recommend(table(*BARS, more, row("dart", 0.5, 0.1, True)), 0.25).row.method == "dart", "the cheaper one"


def test_controls_that_do_as_well_are_named_and_nothing_is_recommended() -> None:
    verdict = recommend(table(*BARS, row("dart", 0.5, 0.1), row("dart", 0.25, 0.3, True)), 0.25)
    assert verdict.row is None
    assert verdict.lines[0].endswith("nothing beats random and stride patches where it stays within the tolerance: "
                                     "random at 50 % does as well")  # fmt: skip
    assert "50 %: best is dart, 10 % of blind; random and stride do as well" in verdict.lines
    far = "25 %: best is dart, 30 % of blind, not surely within 25 %; it beats random and stride"
    assert far in verdict.lines


def test_it_refuses_where_nothing_is_near_where_time_is_lost_and_where_frames_are_few() -> None:
    far = recommend(table(row("random", 0.5, 0.6), row("stride", 0.5, 0.6), row("dart", 0.5, 0.4, True)), 0.25)
    assert far.row is None and "keep all patches" in far.lines[0]
    slow = recommend(table(*BARS, row("dart", 0.5, 0.1, True, ms=11.0)), 0.25)
    assert slow.row is None and "longer than the unpruned policy" in slow.lines[0]
    assert slow.lines[-1] == "slower than the unpruned policy here: dart at 50 %"
    good = table(*BARS, row("dart", 0.5, 0.1, True), critical=7)
    few = recommend(good, 0.25)
    assert few.row is None and "7 critical frames in 8 episodes (of 100 in 10)" in few.lines[0]
    assert recommend(replace(good, critical={"any": 20}), 0.25).row is not None
    alone = recommend(table(row("random", 0.5, 0.1), row("stride", 0.5, 0.2)), 0.25)
    assert alone.row is None and "random at 50 % does as well" in alone.lines[0]
