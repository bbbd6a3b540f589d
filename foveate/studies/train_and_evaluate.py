"""Training with an evaluation in a simulator at its checkpoints: `foveate train policy --eval.every N`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from foveate.training.config import EvalConfig
from foveate.training.policy.train import TrainPolicyConfig, train_policy


def train_and_evaluate(config: TrainPolicyConfig, progress: Callable[[int, int], None] | None = None) -> Path:
    """Train as `train_policy` does; every `eval.every` steps the checkpoint is played, into `RUN/eval/STEP`."""

    def evaluate(checkpoint: Path) -> Mapping[str, float]:
        return evaluate_checkpoint(config.eval, checkpoint)

    return train_policy(config, progress, None if config.eval.every is None else evaluate)


def evaluate_checkpoint(config: EvalConfig, checkpoint: Path) -> dict[str, float]:
    """Play a checkpoint if it is its turn: `success` (share of the episodes) and `episodes`; else nothing."""
    from foveate.evaluation.sim.evaluate import evaluate
    from foveate.evaluation.sim.simulate import EnvConfig, SimConfig

    if config.every is None or int(checkpoint.name) % config.every:
        return {}
    sim = SimConfig(
        policy=str(checkpoint),
        env=EnvConfig(config.env),
        task_suite_name=config.task_suite_name,
        num_trials_per_task=config.num_trials_per_task,
        num_workers=config.num_workers,
        out=str(checkpoint.parent / "eval" / checkpoint.name),
    )
    total: Mapping[str, Any] = evaluate(sim).summary["total"]
    return {"success": total["successes"] / total["episodes"], "episodes": total["episodes"]}
