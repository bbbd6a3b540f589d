"""Policies that were fine-tuned alike, each with a pruner of its own, on the same scenes.

Writes `alike.json` and the tables of docs/methods.md, out of run folders of `foveate eval sim` that are named as the
pruners.

python benchmarks/pruning_sweep/alike.py runs/alike/eval        # reads the runs again
python benchmarks/pruning_sweep/alike.py                        # out of alike.json
"""

from __future__ import annotations

import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

from foveate.evaluation.sim.results import RunLog, aggregate
from foveate.util.files import write_json
from foveate.util.markdown import put, table
from foveate.util.stats import holm, paired_difference, sign_test, wilson
from foveate.util.words import percents

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/methods.md"
PRUNERS = ("none", "grids", "lightvla", "stride", "random")


def read(folder: Path) -> dict[str, Any]:
    """A run as far as it was played, and whether each episode succeeded."""
    log = RunLog(folder)
    log.close()
    total = aggregate(log.episodes, log.queries)
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return {
        "pruner": folder.name,
        "kept": total["kept"]["mean"],
        "gflops": total["gflops"],
        "succeeded": {f"{e.task} {e.seed}": e.status == "success" for e in log.episodes},
        **{name: run[name] for name in ("date", "machine", "git")},
    }


def success(run: dict[str, Any], task: str = "") -> str:
    """`44/50`; over all tasks with Wilson's interval."""
    ended = [won for key, won in run["succeeded"].items() if key.startswith(task)]
    told = f"{sum(ended)}/{len(ended)}"
    return told if task else f"{told} ({percents(*wilson(sum(ended), len(ended)))})"


def successes(runs: list[dict[str, Any]]) -> str:
    tasks = list(dict.fromkeys(key.split()[0] for run in runs for key in run["succeeded"]))
    return table(
        ["pruner", *(task.removesuffix("-v3") for task in tasks), "all", "kept of 128", "GFLOP"],
        [
            [
                "none, not fine-tuned" if run["pruner"] == "none" else f"`{run['pruner']}`",
                *(success(run, f"{task} ") for task in tasks),
                success(run),
                f"{run['kept']:.1f}",
                f"{run['gflops']:.3f}",
            ]
            for run in runs
        ],
    )


def differences(runs: list[dict[str, Any]]) -> str:
    """Of every two fine-tuned policies, over the scenes that both have played."""
    rows, p_values = [], []
    for first, second in combinations([run for run in runs if run["pruner"] != "none"], 2):
        scenes = sorted(first["succeeded"].keys() & second["succeeded"].keys())
        ours, theirs = ([run["succeeded"][scene] for scene in scenes] for run in (first, second))
        low, high = paired_difference(ours, theirs)
        p_values.append(sign_test(ours, theirs))
        only = [sum(a and not b for a, b in zip(*pair, strict=True)) for pair in ((ours, theirs), (theirs, ours))]
        rows.append(
            [
                f"`{first['pruner']}` less `{second['pruner']}`",
                f"{100 * (sum(ours) - sum(theirs)) / len(scenes):+.1f} ({100 * low:+.0f} to {100 * high:+.0f})",
                f"{only[0]}, {only[1]} of {len(scenes)}",
                f"{p_values[-1]:.2g}",
            ]
        )
    head = ["pair", "points (95 %)", "scenes that only the first, only the second solves", "p", "p, Holm"]
    return table(head, [[*row, f"{p:.2g}"] for row, p in zip(rows, holm(p_values), strict=True)])


def main() -> None:
    if len(sys.argv) > 1:
        folders = [Path(sys.argv[1]) / name for name in PRUNERS]
        write_json(HERE / "alike.json", [read(folder) for folder in folders if (folder / "episodes.jsonl").is_file()])
    runs = json.loads((HERE / "alike.json").read_text(encoding="utf-8"))
    for name, text in (("alike", successes(runs)), ("alike-pairs", differences(runs))):
        print(text, end="\n\n")
        put(PAGE, name, text)


if __name__ == "__main__":
    main()
