"""What reusing the prefix does to success: the same scenes and noise with and without, in Meta-World.

    python benchmarks/prefix_cache/run.py play                      # resumable
    python benchmarks/prefix_cache/run.py table                     # results.json and README.md's table

A control step whose pictures and state are close to those of the last whole inference of its episode goes on from its
prefix. Looser thresholds reuse more; `reused` is the share of inferences that did.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from foveate.engine.config import Eager
from foveate.engine.reuse import PrefixReuse
from foveate.evaluation.sim.evaluate import evaluate
from foveate.evaluation.sim.simulate import SimConfig
from foveate.util.files import write_json
from foveate.util.markdown import put, table
from foveate.util.progress import Reporter, plain_console
from foveate.util.stats import paired_difference, sign_test
from foveate.util.words import percent, percents

HERE = Path(__file__).parent
POLICY, STEPS = "metaworld_tiny", 1
THRESHOLDS: dict[str, PrefixReuse] = {
    "off": PrefixReuse(),
    "tight": PrefixReuse(pixels=0.02, state=0.02),
    "loose": PrefixReuse(pixels=0.04, state=0.02),
}


def play(names: list[str], episodes: int, replan: int, out: Path) -> None:
    for name in names:
        evaluate(
            SimConfig(
                policy=POLICY,
                engine=Eager(prefix_cache=THRESHOLDS[name]),
                num_steps=STEPS,
                num_trials_per_task=episodes,
                replan_steps=replan,
                max_batch=1,
                variant=f"prefix_cache_{name}",
                out=str(out / f"{name}_replan{replan}"),
            ),
            Reporter(plain_console()),
        )


def read(folder: Path) -> dict[str, Any]:
    """A finished run, with whether each episode succeeded."""
    run = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    episodes = [json.loads(line) for line in (folder / "episodes.jsonl").read_text(encoding="utf-8").splitlines()]
    config, total = run["config"], run["total"]
    return {
        **config["engine"]["prefix_cache"],
        "replan_steps": config["replan_steps"],
        **{name: total[name] for name in ("successes", "episodes", "crashes", "ci95", "inferences", "steps_mean")},
        "reused": total["prefix_reused"] or 0.0,
        "succeeded": {f"{e['task']} {e['episode']}": e["status"] == "success" for e in episodes},
        "date": run["date"],
        "git": run["git"],
    }


def markdown(runs: list[dict[str, Any]]) -> str:
    head = ["replan", "pixels", "state", "reused", "success", "off alone : reuse alone", "difference, points", "p"]
    rows = []
    for run in runs:
        off = next(r for r in runs if r["pixels"] is None and r["replan_steps"] == run["replan_steps"])
        keys = sorted(off["succeeded"])
        before, after = ([r["succeeded"][key] for key in keys] for r in (off, run))
        success = f"{run['successes']}/{run['episodes']} ({percents(*run['ci95'])})"
        cells = [str(run["replan_steps"]), "off", "", "", success, "", "", ""]
        if run is not off:
            alone = [
                sum(x and not y for x, y in zip(*pair, strict=True)) for pair in ((before, after), (after, before))
            ]
            low, high = paired_difference(after, before)
            cells[1:4] = [f"{run['pixels']:g}", f"{run['state']:g}", percent(run["reused"])]
            cells[5:] = [f"{alone[0]} : {alone[1]}", f"{100 * low:+.0f} to {100 * high:+.0f}"]
            cells += [f"{sign_test(after, before):.2g}"]
        rows.append(cells)
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("play", "table"))
    parser.add_argument("--only", nargs="+", choices=tuple(THRESHOLDS), default=[*THRESHOLDS])
    parser.add_argument("--episodes", type=int, default=8, help="of each of the seven tasks (default: 8)")
    parser.add_argument("--replan", type=int, default=2, help="actions between inferences (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("runs/prefix_cache"), help="of the run folders")
    args = parser.parse_args()
    if args.what == "play":
        play(args.only, args.episodes, args.replan, args.out)
        return
    runs = [read(path.parent) for path in sorted(args.out.glob("*/summary.json"))]
    runs.sort(key=lambda run: (run["replan_steps"], run["pixels"] or 0.0))
    write_json(HERE / "results.json", runs)
    print(markdown(runs))
    put(HERE / "README.md", "measured", markdown(runs))


if __name__ == "__main__":
    main()
