"""`foveate demo`: the main job on the policies that ship with foveate, once with all visual tokens and once pruned."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.errors import FoveateError

if TYPE_CHECKING:
    from foveate.evaluation.sim.simulate import SimConfig

HELP = "the main job on the shipped policy: full against pruned, with a report"
FULL, PRUNED = "metaworld_tiny", "metaworld_tiny_lightvla"


@dataclass(frozen=True)
class DemoConfig:
    """A few episodes of several Meta-World tasks, with all visual tokens and with LightVLA pruning, traced."""

    out: str = "runs/demo"
    """Folder for both runs and the report; an earlier demo there is replaced."""
    tasks: str = "foveate"
    """A suite or tasks separated by commas."""
    episodes: int = 3
    """Per task and variant."""
    seed: int = 0
    """Of scenes and noise, the same for both variants."""
    num_workers: int = 2
    """Simulators that run in parallel."""
    max_plots: int = 40
    """Inferences per variant whose overlays are drawn, evenly over the run."""


def run(argv: list[str]) -> int:
    """The verb: play, trace, draw, report; prints the table and the path of the report."""
    from rich.console import Console

    from foveate.cli.config import parse
    from foveate.cli.eval.sim import evaluate, results_table, write_report

    config = parse(DemoConfig, argv, "foveate demo")
    console, begun = Console(), time.monotonic()
    out = Path(config.out)
    clear(out)
    runs = [evaluate(sim_config(config, variant), console) for variant in ("full", "lightvla")]
    report = write_report([run.folder for run in runs], out / "report", console, config.max_plots)
    console.print(results_table(runs))
    for run in runs:
        for warning in run.summary["warnings"]:
            console.print(f"[yellow]warning ({run.variant}):[/] {warning}", soft_wrap=True, highlight=False)
    console.print(f"{time.monotonic() - begun:.0f} s; report: {report}", soft_wrap=True, highlight=False)
    return 0


def sim_config(config: DemoConfig, variant: str) -> SimConfig:
    """One half of the demo; without fine-tuned weights, LightVLA prunes the full policy as it is."""
    from foveate.evaluation.sim.simulate import SimConfig
    from foveate.policy import POLICIES
    from foveate.pruning import LightVLA, NoPruning

    tuned = (POLICIES / PRUNED / "model.safetensors").exists()
    if not (POLICIES / FULL / "model.safetensors").exists():
        raise FoveateError(
            f"the shipped policy is not in {POLICIES / FULL}: this installation is incomplete; reinstall foveate, or "
            "make the policy with `foveate train policy` (docs/training.md)"
        )
    return SimConfig(
        policy=PRUNED if variant == "lightvla" and tuned else FULL,
        pruner=NoPruning() if variant == "full" else None if tuned else LightVLA(),
        variant=variant,
        task_suite_name=config.tasks,
        num_trials_per_task=config.episodes,
        seed=config.seed,
        trace_out_dir=str(Path(config.out) / variant),
        trace_dump_attn=True,
        num_workers=config.num_workers,
        max_batch=1,  # so that the table shows what a robot would wait for one inference
    )


def clear(out: Path) -> None:
    """Remove an earlier demo, and nothing else."""
    for name in ("full", "lightvla", "report"):
        folder = out / name
        if any((folder / mark).exists() for mark in ("config.yaml", "index.html")):
            shutil.rmtree(folder)
