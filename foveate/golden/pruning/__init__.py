"""The golden group `pruning/`: published pruning methods, as `reference: true` repeats their numbers.

What does not count, and why:
- which patch wins where the index says `ambiguous`, or a gap of the run is below `TIE`: ties, NaN and exhausted
  budgets are `torch.topk`'s or rounding's choice. Scores and counts are compared all the same;
- repeated indices: a patch is fed once here, however often the published code chooses it;
- runs that the reference cannot do (`raises`);
- GridS's nearest-patch samples, which none of its published policies takes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from foveate.errors import FoveateError
from foveate.golden.pruning import before, behind, grids, history
from foveate.golden.pruning.cases import Case, cases
from foveate.golden.report import Report

COMPARE: dict[str, Callable[[Case, Report], None]] = {
    "divprune": before.divprune,
    "cdpruner": before.cdpruner,
    "visionzip": before.visionzip,
    "grids": grids.grids,
    "dart": behind.dart,
    "fastv": behind.fastv,
    "sparsevlm": behind.sparsevlm,
    "vla_adp": history.vla_adp,
    "vla_pruner": history.vla_pruner,
}


def run(folder: Path, report: Report, *, device: str) -> None:
    for case in cases(folder, device, report):
        group = f"pruning {case.method}"
        if case.method not in COMPARE:
            report.skip(group, case.name, "not compared", "a method that this version does not know")
            continue
        try:
            COMPARE[case.method](case, report)
        except KeyError as error:
            report.skip(group, case.name, "not compared", f"the case lacks {error}")
        except FoveateError as error:
            report.exact(group, case.name, False, str(error))
