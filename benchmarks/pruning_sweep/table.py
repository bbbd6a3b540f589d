"""The tables of docs/methods.md, out of sweeps' documents and `latency_*.json` of `foveate bench latency`.

python benchmarks/pruning_sweep/table.py            # out of those beside it, into docs/methods.md
python benchmarks/pruning_sweep/table.py /tmp/sweep # printed only

`pruning.json` is of the first round, `second_*.json` of the second, in other scenes, `libero_*.json` of LIBERO. A table
of several documents is corrected anew, over all of its rows.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from foveate.studies.pruning.methods import CONTROLS, METHODS
from foveate.util.markdown import put, table
from foveate.util.stats import holm
from foveate.util.words import percent, percents
from foveate.viz.pruning import plot_sweep

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/methods.md"
ORDER = ("none", *METHODS)
PLOT = PAGE.parent / "images/pruning_sweep_second.png"
ENGINES = ("eager", "compiled")


def success(row: dict[str, Any] | None) -> str:
    """`19/40 (33–63 %) +45, p 0.001`: episodes, Wilson's interval, points over random, Holm's p."""
    if row is None:
        return "-"
    told = f"{row['successes']}/{row['episodes']} ({percents(*row['ci95'])})"
    if row["difference"] is None:
        return told
    return f"{told} {100 * row['difference']:+.0f}, p {row['p_holm']:.2g}"


def markdown(document: dict[str, Any], ms: dict[tuple[str, str], float]) -> str:
    """A row per method, controls first; arithmetic and milliseconds are those of the smallest budget.

    Args:
        ms: of an inference, by method with its budget (`random_0.125`) and engine.
    """
    rows = {(row["method"], row["budget"], row["tuned"]): row for row in document["rows"]}
    budgets = sorted({budget for _, budget, _ in rows if budget is not None}, reverse=True)
    tuned = sorted({budget for _, budget, tuned in rows if tuned and budget is not None})
    short = [percent(budget, 1 if budget * 100 % 1 else 0) for budget in budgets]
    head = ["method", *short, *(f"fine-tuned, {short[budgets.index(budget)]}" for budget in tuned), "kept", "GFLOP"]
    engines = [engine for engine in ENGINES if any(engine == of for _, of in ms)]
    head += [f"ms, {engine}" for engine in engines]
    lines = []
    for method in dict.fromkeys(method for method, _, _ in rows):
        own = [rows.get((method, budget, False)) for budget in budgets]
        if method == "none":
            own = [rows[method, None, False]] * len(budgets)
        mine = [rows.get((method, budget if method != "none" else None, True)) for budget in tuned]
        last = next(row for row in reversed(own) if row is not None)
        label = method if method == "none" else f"{method}_{budgets[-1]:g}"
        told = [ms.get((label, engine)) for engine in engines]
        lines.append(
            [
                f"*{method}*" if method in CONTROLS else "unpruned" if method == "none" else f"`{method}`",
                *map(success, [*own, *mine]),
                f"{last['kept']:.0f}",
                f"{last['gflops']:.3f}",
                *("-" if one is None else f"{one:.1f}" for one in told),
            ]
        )
    return table(head, lines)


def joined(paths: list[Path]) -> dict[str, Any]:
    """The rows of sweeps over the same scenes as those of one, in the order of methods and with Holm's p over all."""
    found = [row for path in paths for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    rows = list({(row["method"], row["budget"], row["tuned"]): row for row in found}.values())
    rows.sort(key=lambda row: ORDER.index(row["method"]))
    tested = [row for row in rows if row["p"] is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = p
    return {"rows": rows}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    own = folder.resolve() == HERE.resolve()
    measured = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("latency_*.json"))]
    ms = {(row["pruning"], row["engine"]): row["policy_ms"]["p50"] for one in measured for row in one["rows"]}
    texts = {}
    for name, pattern in {"measured": "pruning.json", "second": "second_*.json", "libero": "libero_*.json"}.items():
        if paths := sorted(folder.glob(pattern)):
            document = joined(paths)
            texts[name] = markdown(document, ms if name == "measured" else {})
            if name == "second":
                plot = PLOT if own else folder / PLOT.name
                plot_sweep(document["rows"], plot, "metaworld_tiny, second round")
    for name, text in texts.items():
        print(text, end="\n\n")
        if own:
            put(PAGE, name, text)


if __name__ == "__main__":
    main()
