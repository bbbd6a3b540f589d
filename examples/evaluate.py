"""How often does a policy succeed? A simulated task, two episodes, with the interval that two episodes leave.

python examples/evaluate.py                           # on a CPU, well under a minute; needs the extra `sim`

The run folder holds results.csv, summary.json and every episode; the same command again goes on in it.
"""

from __future__ import annotations

import argparse

from foveate.evaluation.sim.evaluate import evaluate, result_rows
from foveate.evaluation.sim.simulate import SimConfig
from foveate.util.words import percents


def main() -> None:
    """Play, write the run folder, print a row per task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="metaworld_tiny_lightvla")
    parser.add_argument("--episodes", type=int, default=2)
    parser.add_argument("--out", default="runs/evaluate")
    options = parser.parse_args()
    config = SimConfig(
        policy=options.policy,
        task_suite_name="drawer-close",
        num_trials_per_task=options.episodes,
        num_workers=1,
        out=options.out,
    )
    run = evaluate(config)
    for row in result_rows([run]):
        low, high = row.ci95
        print(
            f"{row.task:16} {row.successes}/{row.episodes} ({percents(low, high)})  "
            f"{row.kept:.1f} of {row.patches:.0f} tokens  {row.ms_p50:.0f} ms"
        )
    print(f"results: {run.folder / 'results.csv'}")


if __name__ == "__main__":
    main()
