"""NO, COARSE or FULL per camera and step in closed loop: success against the cost of the whole inference.

    python benchmarks/looking/run.py play --policy full --rule coarse         # one row, resumable
    python benchmarks/looking/run.py time                                     # processor time of one inference
    python benchmarks/looking/run.py table                                    # results.json, the tables, the plot

Every row plays the same scenes with the same noise. `full` and `lightvla` are the shipped policies, which never saw a
level but FULL; the `_adapted` ones are they after a short fine-tuning with random levels, in the folder `--adapted`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foveate.evaluation.sim.evaluate import evaluate
from foveate.evaluation.sim.results import RunLog, aggregate
from foveate.evaluation.sim.simulate import SimConfig
from foveate.policy import load_policy
from foveate.util.files import write_json
from foveate.util.progress import Reporter, plain_console
from foveate.util.stats import paired_difference, sign_test
from foveate.util.words import percent, percents
from foveate.vision_value.looking import make_looking
from foveate.viz.value.canvas import new_figure, save

HERE = Path(__file__).parent
PLOT = HERE.parents[1] / "docs" / "images" / "looking.png"
BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"
SHIPPED = {"full": "metaworld_tiny", "lightvla": "metaworld_tiny_lightvla"}
POLICIES = ("full", "full_adapted", "lightvla", "lightvla_adapted")
RULES: dict[str, dict[str, Any]] = {
    "full": {"name": "full"},
    "coarse": {"name": "coarse"},
    "alternate": {"name": "alternate"},
    "motion_0.08": {"name": "motion", "threshold": 0.08},
    "wrist": {"name": "wrist"},
    "head": {"name": "head"},
}
TASKS = "reach,push,pick-place"
COLOURS = dict(zip(RULES, ("#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00"), strict=True))
MARKERS = dict(zip(POLICIES, ("o", "D", "s", "^"), strict=True))
ROUNDS, WARM_UP = 60, 5


def play(policy: str, rule: str, args: argparse.Namespace) -> None:
    base = policy.removesuffix("_adapted")
    options = RULES[rule] | ({"path": str(args.heads / policy)} if rule == "head" else {})
    evaluate(
        SimConfig(
            policy=SHIPPED[policy] if policy in SHIPPED else str(args.adapted / base),
            looking=make_looking(options),
            task_suite_name=TASKS,
            num_trials_per_task=args.episodes,
            num_workers=1,
            max_batch=1,
            variant=f"{policy}_{rule}",
            out=str(args.out / f"{policy}_{rule}"),
        ),
        Reporter(plain_console()),
    )


def measure_time() -> dict[str, dict[str, float]]:
    """Policy -> rule -> median processor milliseconds of one inference, one thread, rules in turn."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    for policy in SHIPPED:
        rules = [rule for rule in RULES if rule not in ("motion_0.08", "head")]
        loaded = {rule: load_policy(SHIPPED[policy], looking=RULES[rule]) for rule in rules}
        took: dict[str, list[float]] = {rule: [] for rule in rules}
        for seed in range(ROUNDS + WARM_UP):
            for rule, one in loaded.items():
                frame, noise = one.example(seed), np.zeros(one.spec.noise_shape or (), np.float32)
                start = time.process_time()
                one.infer(frame, noise, session="time")
                took[rule].append((time.process_time() - start) * 1e3)
        found[policy] = {rule: round(float(np.median(ms[WARM_UP:])), 2) for rule, ms in took.items()}
    return found


def read(folder: Path) -> dict[str, Any]:
    """A run as far as it was played, with whether each episode succeeded."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    log = RunLog(folder)
    log.close()
    total = aggregate(log.episodes, log.queries)
    policy = max((name for name in POLICIES if folder.name.startswith(f"{name}_")), key=len)
    return {
        "policy": policy,
        "rule": folder.name.removeprefix(f"{policy}_"),
        **{name: total[name] for name in ("successes", "episodes", "crashes", "ci95", "inferences", "gflops", "looks")},
        "kept": total["kept"]["mean"],
        "succeeded": {f"{e.task} {e.episode}": e.status == "success" for e in log.episodes},
        "date": run["date"],
        "machine": run["machine"],
        "git": run["git"],
    }


def lines(runs: list[dict[str, Any]]) -> list[str]:
    head = "| policy | looks | success | to full, points | p | GFLOP | of full | NO, COARSE, FULL | patches |"
    told = [head, "|" + "---|" * 9]
    for run in runs:
        full = next((r for r in runs if (r["policy"], r["rule"]) == (run["policy"], "full")), None)
        cells = [run["policy"].replace("_", ", "), f"`{run['rule']}`"]
        cells += [f"{run['successes']}/{run['episodes']} ({percents(*run['ci95'])})", "", ""]
        cells += [f"{run['gflops']:.3f}", "", ", ".join(percent(share) for share in run["looks"].values())]
        cells += [f"{run['kept']:.1f}"]
        if full is not None and run is not full:
            keys = sorted(full["succeeded"].keys() & run["succeeded"].keys())
            ours, theirs = ([r["succeeded"][key] for key in keys] for r in (run, full))
            low, high = paired_difference(ours, theirs)
            cells[3:5] = [f"{100 * low:+.0f} to {100 * high:+.0f}", f"{sign_test(ours, theirs):.2g}"]
        if full is not None:
            cells[6] = percent(run["gflops"] / full["gflops"])
        told.append(f"| {' | '.join(cells)} |")
    return told


def plot(runs: list[dict[str, Any]]) -> None:
    figure, axes = new_figure(8.5, 4.6)
    for run in runs:
        rate = run["successes"] / run["episodes"]
        bars = [[100 * max(0.0, rate - run["ci95"][0])], [100 * max(0.0, run["ci95"][1] - rate)]]
        axes.errorbar(
            [run["gflops"]], [100 * rate], bars, color=COLOURS[run["rule"]], marker=MARKERS[run["policy"]],
            markersize=7, elinewidth=0.6, capsize=2,
        )  # fmt: skip
    for policy in dict.fromkeys(run["policy"] for run in runs):
        axes.plot([], [], color="#606060", marker=MARKERS[policy], linestyle="none", label=policy.replace("_", ", "))
    for rule in dict.fromkeys(run["rule"] for run in runs):
        axes.plot([], [], color=COLOURS[rule], linewidth=4, label=rule)
    axes.set_xlabel("GFLOP per inference, tower included")
    axes.set_ylabel("success, %")
    axes.set_xlim(left=0)
    axes.set_ylim(-3, 103)
    axes.set_title(f"metaworld_tiny, {TASKS} · 95 % Wilson intervals", fontsize=9, loc="left")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, PLOT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("play", "time", "table"))
    parser.add_argument("--policy", choices=POLICIES, default="full")
    parser.add_argument("--rule", choices=tuple(RULES), default="full")
    parser.add_argument("--episodes", type=int, default=14, help="of each of the three tasks (default: 14)")
    parser.add_argument("--adapted", type=Path, default=Path("runs/looking/tuned"), help="of the fine-tuned policies")
    parser.add_argument("--heads", type=Path, default=Path("runs/looking/heads"), help="of the heads, by policy")
    parser.add_argument("--out", type=Path, default=Path("runs/looking/rows"), help="of the run folders")
    args = parser.parse_args()
    if args.what == "play":
        play(args.policy, args.rule, args)
    elif args.what == "time":
        print(json.dumps(measure_time(), indent=1))
    else:
        runs = [read(path.parent) for path in args.out.glob("*/episodes.jsonl") if path.stat().st_size]
        runs.sort(key=lambda run: (POLICIES.index(run["policy"]), list(RULES).index(run["rule"])))
        write_json(HERE / "results.json", runs)
        text = "\n".join(lines(runs))
        for page in (HERE / "README.md", PLOT.parents[1] / "looking.md"):
            before, rest = page.read_text(encoding="utf-8").split(BEGIN)
            page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")
        plot(runs)
        print(text)


if __name__ == "__main__":
    main()
