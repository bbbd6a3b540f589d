"""What docs/value-of-vision.md claims, measured: seeds, thresholds and pruning on the mixed set, then every check.

    python benchmarks/value_of_vision/run.py --out runs/value                 # the shipped model, three seeds
    python benchmarks/value_of_vision/run.py --out runs/value --model DIR --questions 3000

Resumable: answers are cached. Writes `results.md` and `results.json` beside this file (or to `--report`), and the first
into docs/value-of-vision.md between its marks with `--docs`.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

from foveate.cli.config import parse
from foveate.cli.main import main as foveate
from foveate.data.vqa.mixed import facts_of
from foveate.evaluation.vqa.config import VqaConfig
from foveate.studies.value.run import evaluate
from foveate.studies.value.study import open_study
from foveate.testing.golden import REPO
from foveate.util.markdown import put
from foveate.util.provenance import provenance

HERE = Path(__file__).parent
CONFIGS = REPO / "configs"
THRESHOLDS = ("0.1", "0.2", "0.3", "0.4", "0.5", "0.7", "1", "1.5")
LAMBDAS = ("0", "0.02", "0.05", "0.1", "0.2", "0.3", "0.5", "1")
RIVALS = {
    "random_policy_matched": "random, matched",
    "string_lookup": "string lookup",
    "uncertainty_threshold": "entropy threshold",
    "cascade": "cascade, every pass paid",
}
Row = dict[str, Any]


def common(options: argparse.Namespace, out: str, questions: int) -> list[str]:
    """What every command line here has."""
    return [
        "--config", str(CONFIGS / "base.yaml"), "--config", str(CONFIGS / "tiny.yaml"),
        "--model.path", options.model, "--dataset_config", "mixed", "--max_samples", str(questions),
        "--output_dir", str(options.out / out),
    ]  # fmt: skip


def run(options: argparse.Namespace) -> None:
    """Train and evaluate under every seed; sweep thresholds and shares of tokens."""

    def call(*words: str, out: str, questions: int) -> None:
        if foveate([*words[:2], *common(options, out, questions), *words[2:]]):
            raise SystemExit(1)

    training = ("--max_train_samples", str(options.training), "--seeds", *options.seeds, "--pareto", *LAMBDAS)
    call("sweep", "seeds", *training, out="seeds", questions=options.questions)
    for look in ("full", "coarse"):
        words = ("--thresholds", *THRESHOLDS, "--uncertainty", "entropy", "--vision", look)
        call("sweep", "threshold", *words, out=f"threshold_{look}", questions=options.questions)
    for mode in ("stride", "topk_norm"):
        words = ("--ratios", "1.0", "0.75", "0.5", "0.25", "--mode", mode)
        call("sweep", "pruning", *words, out=f"pruning_{mode}", questions=min(500, options.questions))


def read(path: Path) -> list[Row]:
    """Rows of a table; numbers as numbers."""

    def value(text: str) -> Any:
        try:
            return float(text)
        except ValueError:
            return text

    with path.open(newline="", encoding="utf-8") as file:
        return [{key: value(text) for key, text in row.items()} for row in csv.DictReader(file)]


def slices(options: argparse.Namespace, seed: str) -> list[Row]:
    """The chosen row of one seed among known and held-out wordings, and among letters that the context tells."""
    head = str(options.out / "seeds" / f"seed_{seed}" / "policy")
    words = [*common(options, f"slices_{seed}", options.questions), "--checkpoint", head]
    with open_study(parse(VqaConfig, words, "run.py")) as study:
        found = evaluate(study)
    scored, chosen = found.datasets["mixed"], next(item for item in found.matrix if item.row["chosen"])
    facts = [facts_of(sample) for sample in scored.samples]
    kinds = [sample.category for sample in scored.samples]
    among = {
        "known wordings": np.array([not f.held for f in facts]),
        "held-out wordings": np.array([f.held for f in facts]),
        "letters that the context tells": np.array(
            [k == "corner letter" and f.need == "NO" for k, f in zip(kinds, facts, strict=True)]
        ),
    }
    return [
        {
            "slice": name,
            "seed": seed,
            "questions": int(index.sum()),
            "accuracy": float(chosen.correct[index].mean()),
            "cost": float(chosen.cost[index].mean()),
            "always_full": float(scored.outcomes.correct[index, 2].mean()),
            "without_looking": float(scored.outcomes.correct[index, 0].mean()),
            "looked_fully": float((chosen.decisions.action[index] == 2).mean()),
        }
        for name, index in among.items()
    ]


def measure(folder: Path, seeds: list[str]) -> dict[str, Any]:
    """Every figure of the report, from the files of the run."""
    averaged = read(folder / "seeds" / "seeds.csv")
    margins = [read(folder / "seeds" / f"seed_{seed}" / "comparison.csv") for seed in seeds]
    matrices = [read(folder / "seeds" / f"seed_{seed}" / "eval_matrix.csv") for seed in seeds]
    found: dict[str, Any] = {"rows": averaged, "checks": checks(folder, matrices)}
    chosen = [next(r for r in m if r["chosen"]) for m in matrices]
    full = next(r for r in averaged if r["baseline_name"] == "always_full")
    found["chosen"] = {
        "lambda": [r["lambda_cost"] for r in chosen],
        "accuracy": [r["accuracy"] for r in chosen],
        "cost": [r["avg_cost"] for r in chosen],
        "flops": [r["gflops_share"] for r in chosen],
        "time": [r["path_ms_share"] for r in chosen],
        "always_full": full["accuracy"],
    }
    found["margins"] = {
        rival: [
            next(m for m in table if m["row"] == c["row"] and m["rival"] == rival)
            for table, c in zip(margins, chosen, strict=True)
        ]
        for rival in RIVALS
        if any(m["rival"] == rival for m in margins[0])
    }
    found["oracle"] = next(r for r in averaged if r["baseline_name"] == "oracle")
    return found


def checks(folder: Path, matrices: list[list[Row]]) -> dict[str, bool]:
    """The users' own checks, each true or false over all seeds."""
    told: dict[str, list[bool]] = {}

    def check(name: str, holds: bool) -> None:
        told.setdefault(name, []).append(bool(holds))

    for matrix in matrices:
        learned = [r for r in matrix if r["baseline_name"] == "" and not r["chosen"]]
        costs = [r["avg_cost"] for r in learned]
        check("avg_cost falls as lambda grows", costs == sorted(costs, reverse=True) and costs[0] > costs[-1])
        check("ratios move towards NO and COARSE", learned[0]["action_rate_full"] > learned[-1]["action_rate_full"])
        by = {r["row"]: r for r in matrix}
        full, none = by["always_full"], by["no_vision"]
        check(
            "always_full is [0, 0, 1] at the highest cost of one look",
            full["action_rate_full"] == 1 == full["avg_cost"],
        )
        check("no_vision is [1, 0, 0] at 0", none["action_rate_no"] == 1 and none["avg_cost"] == 0)
        heads = [r for r in matrix if r["baseline_name"] == ""]
        matched = [r for r in matrix if r["matched"] == "global"]
        rates = ("action_rate_no", "action_rate_coarse", "action_rate_full")
        near = all(abs(a[k] - b[k]) <= 0.02 for a, b in zip(heads, matched, strict=True) for k in rates)
        check("random matched hits its ratios within 2 points", near)
    for look in ("full", "coarse"):
        rows = read(folder / f"threshold_{look}" / "pareto_threshold.csv")
        costs = [r["avg_cost"] for r in rows]
        check("lower thresholds look more and cost more", costs == sorted(costs, reverse=True) and costs[0] > costs[-1])
    for mode in ("stride", "topk_norm"):
        rows = read(folder / f"pruning_{mode}" / "pareto_pruning.csv")
        left = [r["remaining_vision_tokens"] for r in rows if r["pruning_mode"] == mode]
        check("remaining tokens fall with the ratio", left == sorted(left, reverse=True) and left[0] > left[-1])
    return {name: all(values) for name, values in told.items()}


def percent(values: list[float]) -> str:
    """Mean and deviation over seeds, in percent."""
    mean = 100 * statistics.fmean(values)
    return f"{mean:.1f} ± {100 * statistics.stdev(values):.1f} %" if len(values) > 1 else f"{mean:.1f} %"


def report(found: dict[str, Any]) -> str:
    """Markdown."""
    chosen = found["chosen"]
    loss = 100 * (chosen["always_full"] - statistics.fmean(chosen["accuracy"]))
    lines = [
        f"With λ chosen on validation ({', '.join(f'{x:g}' for x in chosen['lambda'])}), the learned head answers "
        f"{percent(chosen['accuracy'])} at {percent(chosen['cost'])} of the cost of always FULL, which answers "
        f"{100 * chosen['always_full']:.1f} %: {loss:.1f} points less. With the text pass and the answer that is "
        f"{percent(chosen['flops'])} of its FLOPs and {percent(chosen['time'])} of its time on a CPU.",
        "",
        "| against, at the same cost | margin in points, per seed (95 % interval) |",
        "|---|---|",
    ]
    for rival, margins in found["margins"].items():
        cells = [
            f"{100 * m['margin']:+.1f} ({100 * m['margin_low']:+.1f} to {100 * m['margin_high']:+.1f})" for m in margins
        ]
        lines.append(f"| {RIVALS[rival]} | {'; '.join(cells)} |")
    oracle = found["oracle"]
    lines += [
        "",
        f"The oracle answers {100 * oracle['accuracy']:.1f} % at {100 * oracle['avg_cost']:.1f} % of the cost.",
        "",
        "±: deviation over seeds; intervals: 95 %, of questions and seeds; FLOPs and time: of the whole path, shares "
        "of always FULL's.",
        "",
        "| row | accuracy | cost | FLOPs | time | NO / COARSE / FULL |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        if row["baseline_name"] in ("", "always_full", "always_coarse", "no_vision", "oracle"):
            rates = " / ".join(f"{100 * row[f'action_rate_{level}']:.0f}" for level in ("no", "coarse", "full"))
            spread = f" ± {100 * row['accuracy_std']:.1f}" if isinstance(row["accuracy_std"], float) else ""
            name = "learned, λ chosen on validation" if row["chosen"] else row["row"]
            bounds = f"{100 * row['accuracy_low']:.1f}–{100 * row['accuracy_high']:.1f}"
            path = f"{row['gflops_share']:.2f} | {row['path_ms_share']:.2f}"
            accuracy = f"{100 * row['accuracy']:.1f}{spread} % ({bounds})"
            lines.append(f"| {name} | {accuracy} | {row['avg_cost']:.3f} | {path} | {rates} |")
    head = "| among (questions) | λ chosen | always FULL | NO | cost | looked fully |"
    lines += ["", head, "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(part["slice"] for part in found["slices"]):
        mine = [part for part in found["slices"] if part["slice"] == name]
        cells = " | ".join(
            percent([part[key] for part in mine])
            for key in ("accuracy", "always_full", "without_looking", "cost", "looked_fully")
        )
        lines.append(f"| {name} ({mine[0]['questions']}) | {cells} |")
    lines += ["", "| check | holds |", "|---|---|"]
    lines += [f"| {name} | {'yes' if holds else '**no**'} |" for name, holds in found["checks"].items()]
    return "\n".join(lines) + "\n"


def write_docs(text: str) -> None:
    """The report between the marks of docs/value-of-vision.md."""
    put(REPO / "docs" / "value-of-vision.md", "measured", text.rstrip("\n"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny_qwen3vl")
    parser.add_argument("--questions", type=int, default=3000)
    parser.add_argument("--training", type=int, default=24000)
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"])
    parser.add_argument("--out", type=Path, default=Path("runs/value"))
    parser.add_argument("--report", type=Path, default=HERE)
    parser.add_argument("--docs", action="store_true", help="write the report into docs/value-of-vision.md")
    parser.add_argument("--read_only", action="store_true", help="report on what is there")
    options = parser.parse_args()
    if not options.read_only:
        run(options)
    found = measure(options.out, options.seeds)
    found["slices"] = [part for seed in options.seeds for part in slices(options, seed)]
    text = report(found)
    print(text)
    options.report.mkdir(parents=True, exist_ok=True)
    (options.report / "results.md").write_text(text, encoding="utf-8")
    if options.docs:
        write_docs(text)
    result = {**found, "model": options.model, "questions": options.questions, "training": options.training}
    (options.report / "results.json").write_text(
        json.dumps({**result, **provenance(), "argv": ["run.py", *sys.argv[1:]]}, indent=1, ensure_ascii=False) + "\n"
    )


if __name__ == "__main__":
    main()
