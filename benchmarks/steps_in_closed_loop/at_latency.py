"""Success over latency: what a slower engine, more denoising steps or more tokens cost while the simulator goes on.

    python benchmarks/steps_in_closed_loop/at_latency.py play                       # resumable; hours
    python benchmarks/steps_in_closed_loop/at_latency.py play --policies metaworld_tiny --steps 1 --waits 7 16
    python benchmarks/steps_in_closed_loop/at_latency.py table                      # what is there, into README.md

An inference of so many milliseconds lasts a whole number of control steps, and nothing else of an engine reaches the
simulator. So every number of steps that pass is played once (a constant `--inject_latency`), and what an engine costs
in success on some device is looked up there.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from table import HERE, POLICIES, success

from foveate.bench.variants import CHECKPOINT, Variant, has_pruner, set_up
from foveate.evaluation.sim.evaluate import evaluate
from foveate.evaluation.sim.simulate import SimConfig
from foveate.util.files import write_json
from foveate.util.markdown import put, table
from foveate.util.progress import Reporter, plain_console

RESULTS = HERE / "at_latency.json"
CONTROL_HZ = 80.0
"""Of Meta-World; held against what each run says."""
STEPS = (1, 10)
WAITS = (7, 16, 32, 3, 24, 12, 1)
"""Control steps that an inference lasts, those that decide most first. 83.5 ms are seven."""


def play(policies: list[str], steps: list[int], waits: list[int], episodes: int, out: Path) -> None:
    report = Reporter(plain_console())
    for name in policies:
        shared = SimConfig(policy=name, num_trials_per_task=episodes, max_batch=1)
        policy = shared.load(report)
        pruning = CHECKPOINT if has_pruner(policy) else "none"
        for wait in waits:
            for number in steps:
                named = f"{name}_{number}steps_{wait}waits"
                injected = {"inject_latency": 1e3 * wait / CONTROL_HZ, "variant": named, "out": str(out / named)}
                config = replace(shared, num_steps=number, **injected)
                evaluate(config, report, set_up(policy, Variant("eager", pruning, number), policy.engine))


def read_runs(out: Path) -> list[dict[str, Any]]:
    """The rows of the run folders that are there; of those that are not, as they were kept before."""
    rows = {}
    for row in json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else []:
        rows[row["policy"], row["denoising_steps"], row["waits"]] = row
    for path in out.glob("*/summary.json"):
        run = json.loads(path.read_text(encoding="utf-8"))
        config, total = run["config"], run["total"]
        settings = run["environment"]["settings"]
        assert settings["control_hz"] == CONTROL_HZ
        key = config["policy"], config["num_steps"], round(config["inject_latency"] * CONTROL_HZ / 1e3)
        outcome = {name: total[name] for name in ("successes", "episodes", "crashes", "inferences", "steps_mean")}
        outcome |= {"accuracy_ci95": total["ci95"], "date": run["date"], "git": run["git"]}
        rows[key] = {**dict(zip(("policy", "denoising_steps", "waits"), key, strict=True)), **outcome}
    return [rows[key] for key in sorted(rows)]


def over_latency(found: dict[tuple[str, int, int], dict[str, Any]]) -> str:
    """A line for each number of control steps, a column for each policy and number of denoising steps."""
    columns = [(p, s) for p in POLICIES for s in STEPS if any(key[:2] == (p, s) and key[2] for key in found)]
    head = ["control steps", "ms", *(f"{POLICIES[p]}, {s} step{'s' * (s > 1)}" for p, s in columns)]
    rows = []
    for wait in sorted({key[2] for key in found}):
        ms = f"{1e3 * (wait - 1) / CONTROL_HZ:g} to {1e3 * wait / CONTROL_HZ:g}" if wait else "0"
        rows.append([str(wait), ms, *(success(found.get((policy, steps, wait))) for policy, steps in columns)])
    return table(head, rows)


def write(out: Path) -> None:
    rows = read_runs(out)
    write_json(RESULTS, rows)
    found = {(row["policy"], row["denoising_steps"], row["waits"]): row for row in rows}
    for policy in POLICIES:  # while the simulator waits
        for row in json.loads((HERE / f"{policy}.json").read_text(encoding="utf-8"))["results"]:
            if row["engine"] == "eager" and row["denoising_steps"] in STEPS:
                found[policy, row["denoising_steps"], 0] = row
    print(over_latency(found))
    put(HERE / "README.md", "over-latency", over_latency(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("play", "table"))
    parser.add_argument("--policies", nargs="+", choices=tuple(POLICIES), default=[*POLICIES])
    parser.add_argument("--steps", nargs="+", type=int, default=[*STEPS], help="denoising steps")
    parser.add_argument("--waits", nargs="+", type=int, default=[*WAITS], help="control steps of 12.5 ms")
    parser.add_argument("--episodes", type=int, default=8, help="of each of the seven tasks (default: 8)")
    parser.add_argument("--out", type=Path, default=Path("runs/at_latency"), help="of the run folders")
    args = parser.parse_args()
    if args.what == "play":
        play(args.policies, args.steps, args.waits, args.episodes, args.out)
    else:
        write(args.out)


if __name__ == "__main__":
    main()
