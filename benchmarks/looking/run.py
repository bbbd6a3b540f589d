"""NO, COARSE or FULL per camera and step in closed loop: success against the cost of the whole inference.

    python benchmarks/looking/run.py play --policy full --rule coarse         # one row, resumable
    python benchmarks/looking/run.py thresholds --policy full_adapted         # of `motion`, on recorded inferences
    python benchmarks/looking/run.py time                                     # processor time of one inference
    python benchmarks/looking/run.py table                                    # results.json, the tables, the plot

Every row plays the same scenes with the same noise. `full` and `lightvla` are the shipped policies, which never saw a
level but FULL; the `_adapted` ones are they after a short fine-tuning with random levels, in the folder `--adapted`.
`--own` holds what they recorded of themselves, and `--heads` what was learnt of it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from foveate.evaluation.recorded import columns_of
from foveate.evaluation.sim.evaluate import evaluate
from foveate.evaluation.sim.results import RunLog, aggregate
from foveate.evaluation.sim.simulate import SimConfig
from foveate.policy import Policy, load_policy
from foveate.studies.fit.episodes import open_episodes, read_episode
from foveate.types import Observation
from foveate.util.files import write_json
from foveate.util.noise import action_noise
from foveate.util.progress import Reporter, plain_console
from foveate.util.provenance import provenance
from foveate.util.stats import paired_difference, sign_test
from foveate.util.words import percent, percents
from foveate.vision_value.looking import Motion, make_looking
from foveate.vision_value.looking.base import Look, Memory, Now
from foveate.viz.value.canvas import new_figure, save

HERE = Path(__file__).parent
PLOT = HERE.parents[1] / "docs" / "images" / "looking.png"
TIME = HERE / "time.json"
BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"
SHIPPED = {"full": "metaworld_tiny", "lightvla": "metaworld_tiny_lightvla"}
POLICIES = ("full", "full_adapted", "lightvla", "lightvla_adapted")
RULES: dict[str, dict[str, Any]] = {
    "full": {"name": "full"},
    "coarse": {"name": "coarse"},
    "alternate": {"name": "alternate"},
    "motion_0.08": {"name": "motion", "threshold": 0.08},
    "motion_0.035": {"name": "motion", "threshold": 0.035},
    "motion_0.022_coarse": {"name": "motion", "threshold": 0.022, "rest": "COARSE"},
    "motion_0.043_coarse": {"name": "motion", "threshold": 0.043, "rest": "COARSE"},
    "wrist": {"name": "wrist"},
    "wrist_no": {"name": "wrist", "rest": "NO"},
    "head": {"name": "head"},
    "head_0.65": {"name": "head"},
    "head_0.33": {"name": "head"},
    "head_demos": {"name": "head"},
}
TASKS = "reach,push,pick-place"
COLOURS = dict(full="#000000", coarse="#0072B2", alternate="#E69F00", wrist="#CC79A7", head="#D55E00", motion="#009E73")
MARKERS = dict(zip(POLICIES, ("o", "D", "s", "^"), strict=True))
WANTED: tuple[tuple[Literal["NO", "COARSE"], float], ...] = (("NO", 0.53), ("COARSE", 0.5), ("COARSE", 1 / 3))
"""What `motion` does with what changed less, and how often it shall look: as `alternate` and `wrist` do, and less."""
TIMED, WARM_UP = 5, 5


def colour(rule: str) -> str:
    return COLOURS[rule.split("_")[0]]


def model_of(policy: str, args: argparse.Namespace) -> str:
    return SHIPPED[policy] if policy in SHIPPED else str(args.adapted / policy.removesuffix("_adapted"))


def rule_of(policy: str, rule: str, args: argparse.Namespace) -> dict[str, Any]:
    found = RULES[rule]
    if found["name"] != "head":
        return found
    return {**found, "path": str(args.heads / f"{policy}{rule.removeprefix('head')}")}


def play(policy: str, rule: str, args: argparse.Namespace) -> None:
    evaluate(
        SimConfig(
            policy=model_of(policy, args),
            looking=make_looking(rule_of(policy, rule, args)),
            task_suite_name=TASKS,
            num_trials_per_task=args.episodes,
            num_workers=1,
            max_batch=1,
            variant=f"{policy}_{rule}",
            out=str(args.out / f"{policy}_{rule}"),
        ),
        Reporter(plain_console()),
    )


def recorded(policy: Policy, folder: Path, most: int = 10_000) -> list[tuple[Observation, ...]]:
    """What the policy saw at each of its inferences, by episodes; of `most` episodes at most."""
    robot = policy.processor.robot
    source = open_episodes(str(folder), robot)
    columns = columns_of(source, robot)
    return [read_episode(source, n, columns, 1, 10_000).observations for n in range(min(most, len(source)))]


def thresholds(policy: str, args: argparse.Namespace) -> None:
    """Print at which threshold `motion` looks at FULL as often as wanted, on the recorded inferences of a policy."""
    one = load_policy(model_of(policy, args))
    episodes = recorded(one, args.own / policy)
    seen = [[Now(one.processor.source_images(now), now.state) for now in episode] for episode in episodes]
    print(f"{len(seen)} episodes, {sum(map(len, seen))} inferences")
    for rest, wanted in WANTED:
        low, high = 0.0, 0.1
        while high - low > 5e-4:
            middle = (low + high) / 2
            often = looked(Motion(threshold=middle, rest=rest), seen).mean() > wanted
            low, high = (middle, high) if often else (low, middle)
        shares = looked(Motion(threshold=round(high, 3), rest=rest), seen)
        print(f"rest {rest}, {percent(wanted)} wanted: {high:.3f}, {percent(shares.mean())} FULL, by views {shares}")


def looked(rule: Motion, episodes: list[list[Now]]) -> np.ndarray:
    """float64 [views]: share of the inferences at which the rule looks at each at FULL."""
    counts = []
    for episode in episodes:
        memory = Memory()
        for query, now in enumerate(episode):
            level = rule.decide(now, memory).level
            for view in (view for view in level if level[view] != "NO"):
                memory.looks[view] = Look(now.pictures[view], level[view], query, torch.empty(0), np.empty(0))
            counts.append([level[view] == "FULL" for view in level])
    return np.mean(counts, axis=0)


def measure_time(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Policy -> rule -> mean processor milliseconds of an inference on what the policy recorded; one thread."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    for policy in (name for name in POLICIES if (args.own / name).is_dir()):
        rules = [rule for rule in RULES if (args.out / f"{policy}_{rule}").is_dir()]
        model = model_of(policy, args)
        loaded = {rule: load_policy(model, looking=rule_of(policy, rule, args)) for rule in rules}
        took: dict[str, list[float]] = {rule: [] for rule in rules}
        episodes = recorded(loaded["full"], args.own / policy, TIMED)
        for number, episode in enumerate(episodes):
            for query, now in enumerate(episode):
                for rule, one in loaded.items():
                    start = time.process_time()
                    one.infer(now, action_noise(one.spec.noise_shape, 0, number, query, 0), session=str(number))
                    took[rule].append((time.process_time() - start) * 1e3)
        found[policy] = {rule: round(float(np.mean(ms[WARM_UP:])), 2) for rule, ms in took.items()}
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
    head = "| policy | looks | success | to full, points | p | GFLOP | of full | CPU ms | NO, COARSE, FULL | patches |"
    took = json.loads(TIME.read_text(encoding="utf-8"))["ms"] if TIME.exists() else {}
    told = [head, "|" + "---|" * 10]
    for run in runs:
        full = next((r for r in runs if (r["policy"], r["rule"]) == (run["policy"], "full")), None)
        cells = [run["policy"].replace("_", ", "), f"`{run['rule']}`"]
        cells += [f"{run['successes']}/{run['episodes']} ({percents(*run['ci95'])})", "", ""]
        cells += [
            f"{run['gflops']:.3f}",
            "",
            took.get(run["policy"], {}).get(run["rule"], ""),
            ", ".join(percent(share) for share in run["looks"].values()),
        ]
        cells += [f"{run['kept']:.1f}"]
        if full is not None and run is not full:
            keys = sorted(full["succeeded"].keys() & run["succeeded"].keys())
            ours, theirs = ([r["succeeded"][key] for key in keys] for r in (run, full))
            low, high = paired_difference(ours, theirs)
            cells[3:5] = [f"{100 * low:+.0f} to {100 * high:+.0f}", f"{sign_test(ours, theirs):.2g}"]
        if full is not None:
            cells[6] = percent(run["gflops"] / full["gflops"])
        told.append(f"| {' | '.join(map(str, cells))} |")
    return told


def plot(runs: list[dict[str, Any]]) -> None:
    figure, axes = new_figure(8.5, 4.6)
    for run in runs:
        rate = run["successes"] / run["episodes"]
        bars = [[100 * max(0.0, rate - run["ci95"][0])], [100 * max(0.0, run["ci95"][1] - rate)]]
        axes.errorbar(
            [run["gflops"]], [100 * rate], bars, color=colour(run["rule"]), marker=MARKERS[run["policy"]],
            markersize=7, elinewidth=0.6, capsize=2,
        )  # fmt: skip
        _, _, variant = run["rule"].partition("_")
        axes.annotate(
            variant.replace("_", " "), (run["gflops"], 100 * run["ci95"][0]), (0, -4), textcoords="offset points",
            size=6, rotation=90, ha="center", va="top",
        )  # fmt: skip
    for policy in dict.fromkeys(run["policy"] for run in runs):
        axes.plot([], [], color="#606060", marker=MARKERS[policy], linestyle="none", label=policy.replace("_", ", "))
    for rule, shade in COLOURS.items():
        axes.plot([], [], color=shade, linewidth=4, label=rule)
    axes.set_xlabel("GFLOP per inference, tower included")
    axes.set_ylabel("success, %")
    axes.set_xlim(left=0)
    axes.set_ylim(-3, 103)
    axes.set_title(f"metaworld_tiny, {TASKS} · 95 % Wilson intervals", fontsize=9, loc="left")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, PLOT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("play", "thresholds", "time", "table"))
    parser.add_argument("--policy", choices=POLICIES, default="full")
    parser.add_argument("--rule", choices=tuple(RULES), default="full")
    parser.add_argument("--episodes", type=int, default=14, help="of each of the three tasks (default: 14)")
    parser.add_argument("--adapted", type=Path, default=Path("runs/looking/tuned"), help="of the fine-tuned policies")
    parser.add_argument("--heads", type=Path, default=Path("runs/looking/heads"), help="of the heads, by policy")
    parser.add_argument("--own", type=Path, default=Path("runs/looking/own"), help="of their recordings, by policy")
    parser.add_argument("--out", type=Path, default=Path("runs/looking/rows"), help="of the run folders")
    args = parser.parse_args()
    if args.what == "play":
        play(args.policy, args.rule, args)
    elif args.what == "thresholds":
        thresholds(args.policy, args)
    elif args.what == "time":
        facts = provenance()
        write_json(TIME, {**{name: facts[name] for name in ("date", "machine", "git")}, "ms": measure_time(args)})
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
