"""Success against visual tokens of the shipped policies: every variant on the same seeds.

    python benchmarks/tiny_policy/run.py --policies runs/tiny --out runs/tiny_benchmark --episodes 50

`--policies` holds one policy folder per fine-tuned variant (as `scripts/train_tiny_policy.sh` leaves them); `full`,
`blind` and `shuffled_instruction` use its `full`. Every variant is a plain `foveate eval sim`, which resumes, so this
script does too. Writes results.csv (variant,task,episodes,successes,kept_mean,patches,ms_p50) beside itself, one row
per task and one named TOTAL per variant, with Wilson intervals printed, and the tables between the markers of both
READMEs and of docs/results.md; `--tables` writes those alone, from the results.csv that is there.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from foveate.evaluation.sim.results import wilson
from foveate.util.markdown import marked, table

COLUMNS = ("variant", "task", "episodes", "successes", "kept_mean", "patches", "ms_p50")
HERE = Path(__file__).parent
REPO = HERE.parents[1]
SIDE_BY_SIDE = ("full", "lightvla", "blind", "shuffled_instruction")
"""The variants of the table by task."""


def success(row: dict[str, str]) -> str:
    count, of = int(row["successes"]), int(row["episodes"])
    low, high = wilson(count, of)
    return f"{count}/{of} ({100 * low:.0f}–{100 * high:.0f} %)"


def kept(row: dict[str, str]) -> str:
    return f"{float(row['kept_mean']):.1f} of {float(row['patches']):.0f}"


def documents() -> dict[Path, str]:
    """Every document that shows results.csv, with its tables as they should be."""
    with (HERE / "results.csv").open() as file:
        rows = {(row["variant"], row["task"]): row for row in csv.DictReader(file)}
    totals = [[f"`{name}`", kept(row), success(row)] for (name, task), row in rows.items() if task == "TOTAL"]
    tasks = [task for name, task in rows if name == "full" and task != "TOTAL"]
    of_tasks = ["task", *(f"`{name}`" for name in SIDE_BY_SIDE)]
    by_task = [[task.removesuffix("-v3"), *(success(rows[name, task]) for name in SIDE_BY_SIDE)] for task in tasks]
    by_task.append(["**all**", *(success(rows[name, "TOTAL"]) for name in SIDE_BY_SIDE)])
    by_task.append(["patches kept", *(kept(rows[name, "TOTAL"]) for name in SIDE_BY_SIDE)])
    head = ["variant", "patches kept", "success"]
    tables = {
        "README.md": table(head, totals),
        "README.zh-CN.md": table(["变体", "保留的 patch", "成功"], totals),
        "docs/results.md": f"{table(of_tasks, by_task)}\n\nAll tasks together:\n\n{table(head, totals)}",
    }
    return {REPO / name: marked(REPO / name, "results", text) for name, text in tables.items()}


def write_documents() -> None:
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")


def evaluate(policies: Path, out: Path, variant: str, episodes: int, suite: str, seed: int) -> list[dict[str, str]]:
    """Run (or finish) one variant and read its rows."""
    controls = {"blind": ["--vision", "blind"], "shuffled_instruction": ["--instruction", "shuffled"]}
    policy = policies / ("full" if variant in controls else variant)
    command = [sys.executable, "-m", "foveate", "eval", "sim", "--policy", str(policy), "--env.name", "metaworld"]
    command += ["--task_suite_name", suite, "--num_trials_per_task", str(episodes), "--seed", str(seed)]
    command += ["--variant", variant, "--out", str(out / variant), "--num_workers", "1", *controls.get(variant, [])]
    with (out / f"{variant}.log").open("a") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    with (out / variant / "results.csv").open() as file:
        return list(csv.DictReader(file))


def total(variant: str, rows: list[dict[str, str]]) -> dict[str, str]:
    """All tasks of a variant in one row; means and medians over tasks weigh each task alike."""

    def mean(column: str) -> str:
        values = [float(row[column]) for row in rows if row[column]]
        return f"{sum(values) / len(values):.2f}" if values else ""

    counts = {column: str(sum(int(row[column]) for row in rows)) for column in ("episodes", "successes")}
    return {"variant": variant, "task": "TOTAL", **counts, **{c: mean(c) for c in ("kept_mean", "patches", "ms_p50")}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--policies", type=Path, required="--tables" not in sys.argv)
    parser.add_argument("--out", type=Path, required="--tables" not in sys.argv)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--suite", default="foveate")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--variants", nargs="*")
    args = parser.parse_args()
    if args.tables:
        return write_documents()
    args.out.mkdir(parents=True, exist_ok=True)
    trained = sorted(p.name for p in args.policies.iterdir() if (p / "config.json").exists())
    variants = args.variants or [*trained, "blind", "shuffled_instruction"]
    with ThreadPoolExecutor(args.processes) as pool:
        done = pool.map(lambda v: evaluate(args.policies, args.out, v, args.episodes, args.suite, args.seed), variants)
        results = list(zip(variants, done, strict=True))
    with (HERE / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for variant, rows in results:
            summary = total(variant, rows)
            writer.writerows([*rows, summary])
            low, high = wilson(int(summary["successes"]), int(summary["episodes"]))
            print(
                f"{variant:24} {summary['successes']:>4}/{summary['episodes']} [{low:.3f}, {high:.3f}] "
                f"kept {summary['kept_mean']}/{summary['patches']} {summary['ms_p50']} ms",
                flush=True,
            )
    write_documents()


if __name__ == "__main__":
    main()
