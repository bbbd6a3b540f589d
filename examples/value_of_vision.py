"""When is it worth to look? Every baseline and the shipped head on a few dozen questions, from the same three passes.

python examples/value_of_vision.py                    # on a CPU, well under a minute
"""

from __future__ import annotations

import argparse

from foveate.evaluation.vqa.config import EvalConfig, ModelConfig, VqaConfig
from foveate.studies.value.run import evaluate
from foveate.studies.value.study import open_study


def main() -> None:
    """Open a study, run it, print accuracy against cost (a FULL look costs 1)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=48)
    parser.add_argument("--out", default="runs/value_of_vision")
    options = parser.parse_args()
    config = VqaConfig(
        model=ModelConfig(path="tiny_qwen3vl"),
        eval=EvalConfig(batch_size=48, max_new_tokens=1),
        dataset_config="mixed",
        max_samples=options.questions,
        pareto=(0.0, 0.1, 0.3),
        output_dir=options.out,
    )
    with open_study(config) as study:
        result = evaluate(study)
    print(f"{'row':44} accuracy   cost")
    for row in result.table:
        print(f"{row['row']:44} {row['accuracy']:8.3f} {row['avg_cost']:6.3f}")
    for line in [*result.notes(), *result.warnings]:
        print(line)


if __name__ == "__main__":
    main()
