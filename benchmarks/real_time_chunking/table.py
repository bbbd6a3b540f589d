"""results.json and the table of README.md, out of the run folders that run.sh leaves.

python benchmarks/real_time_chunking/table.py runs/real_time_chunking
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from foveate.util.files import read_json_lines
from foveate.util.markdown import put, table
from foveate.util.stats import sign_test, wilson
from foveate.util.words import percents

HERE = Path(__file__).parent
WAYS = {
    "synchronous": "stands still",
    "queue": "goes on (queue)",
    "guided": "goes on, guided",
    "rtc_queue": "trained for delays, not told (queue)",
    "hard_prefix": "trained for delays, hard prefix",
}
AGAINST = {"synchronous": "queue", "guided": "queue", "hard_prefix": "rtc_queue"}


def rows(out: Path) -> list[dict[str, Any]]:
    """One for each run folder, by latency."""
    runs: dict[tuple[float, str], dict[tuple[str, int], dict[str, Any]]] = {}
    for folder in sorted(out.glob("*_*")):
        ms, _, way = folder.name.partition("_")
        episodes = list(read_json_lines(folder / "episodes.jsonl"))
        runs[float(ms), way] = {(episode["task"], episode["episode"]): episode for episode in episodes}
    found = []
    for (ms, way), episodes in sorted(runs.items(), key=lambda item: (item[0][0], list(WAYS).index(item[0][1]))):
        won = {key: episode["status"] == "success" for key, episode in episodes.items()}
        steps = [episodes[key]["steps"] for key, success in won.items() if success]
        row = {"latency_ms": ms, "way": way, "successes": sum(won.values()), "episodes": len(won)}
        row |= {"ci95": wilson(sum(won.values()), len(won)), "steps_to_success": float(np.median(steps or [np.nan]))}
        other = runs.get((ms, AGAINST.get(way, "")))
        if other is not None:
            both = [(won[key], other[key]["status"] == "success") for key in won if key in other]
            ours, theirs = zip(*both, strict=True)
            row |= {"against": AGAINST[way], "p": sign_test(ours, theirs)}
            row |= {"better": sum(a > b for a, b in both), "worse": sum(a < b for a, b in both)}
        found.append(row)
    return found


def markdown(found: list[dict[str, Any]]) -> str:
    head = ["latency", "while the policy thinks the robot", "success", "median steps of a success", "against the queue"]
    lines = []
    for row in found:
        success = f"{row['successes']}/{row['episodes']} ({percents(*row['ci95'])})"
        pair = f"{row['better']} : {row['worse']} (p = {row['p']:.2g})" if "p" in row else "-"
        lines.append([f"{row['latency_ms']:g} ms", WAYS[row["way"]], success, f"{row['steps_to_success']:.0f}", pair])
    return table(head, lines)


def main() -> None:
    found = rows(Path(sys.argv[1]))
    (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(markdown(found))
    put(HERE / "README.md", "measured", markdown(found))


if __name__ == "__main__":
    main()
