"""The main job on the policies that ship with foveate, once with all visual tokens and once pruned.

done = demo(DemoConfig(tasks="reach", episodes=1))
done.report                                        # the HTML file
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from foveate.errors import FoveateError
from foveate.evaluation.evidence import write_report
from foveate.evaluation.sim.evaluate import Evaluated, evaluate
from foveate.evaluation.sim.simulate import SimConfig
from foveate.pruning import LightVLA, NoPruning
from foveate.util.files import alone_in, one_process
from foveate.util.progress import SILENT, Reporter
from foveate.util.shipped import POLICIES

FULL, PRUNED = "metaworld_tiny", "metaworld_tiny_lightvla"


@dataclass(frozen=True)
class DemoConfig:
    """A few episodes of several Meta-World tasks, with all visual tokens and with LightVLA pruning, traced."""

    out: str = "runs/demo"
    """Folder for both runs and the report; an earlier demo there is replaced."""
    tasks: str = "foveate"
    """A suite or tasks separated by commas."""
    episodes: int = 3
    """Episodes per task and variant."""
    seed: int = 0
    """Seed of scenes and noise, the same for both variants."""
    num_workers: int = 2
    """Simulators that run in parallel."""
    max_plots: int = 40
    """Inferences per variant whose overlays are drawn, evenly over the run."""


@dataclass(frozen=True)
class Demonstrated:
    """Both runs, and the report that shows them side by side."""

    runs: list[Evaluated]
    report: Path


@alone_in(lambda config: Path(config.out), "playing the demo")
def demo(config: DemoConfig, report: Reporter = SILENT) -> Demonstrated:
    """Play both variants on the same scenes, and write one report over them."""
    out = Path(config.out)
    clear(out)
    runs = [evaluate(sim_config(config, variant), report) for variant in ("full", "lightvla")]
    return Demonstrated(runs, write_report([run.folder for run in runs], out / "report", report, config.max_plots))


def sim_config(config: DemoConfig, variant: str) -> SimConfig:
    """One half of the demo; without fine-tuned weights, LightVLA prunes the full policy as it is."""
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
            with one_process(folder, "removing an earlier demo"):
                shutil.rmtree(folder)
