"""`foveate demo vqa`: the whole comparison on the model that ships with foveate, from three passes, with its curve."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

MODEL = "tiny_qwen3vl"
LAMBDAS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


@dataclass(frozen=True)
class DemoVqaConfig:
    """Every baseline and lambda on the mixed set, whose questions need no image, a coarse one or the full one."""

    out: str = "runs/demo_vqa"
    """Folder of tables and plots."""
    max_samples: int = 600
    """Questions."""
    dataset: str = "mixed"
    """mixed or easy_vqa."""
    ratios: tuple[float, ...] = (0.5, 0.25)
    """Shares of vision tokens to keep, three ways each; each costs a pass."""
    language: Literal["en", "zh"] = "en"
    """Of the plots."""


def run(argv: list[str]) -> int:
    """The verb: a table, two plots, and what the numbers say."""
    from rich.console import Console

    from foveate.cli.config import parse
    from foveate.cli.vqa import plot, rows_table, run_experiment, tell
    from foveate.evaluation.vqa_config import EvalConfig, ModelConfig, VqaConfig

    demo = parse(DemoVqaConfig, argv, "foveate demo vqa")
    console, begun = Console(), time.monotonic()
    config = VqaConfig(
        model=ModelConfig(path=MODEL),
        eval=EvalConfig(batch_size=64, max_new_tokens=1, cache_dir=None),
        dataset_config=demo.dataset,
        max_samples=demo.max_samples,
        output_dir=demo.out,
        pareto=LAMBDAS,
        ratios=demo.ratios,
        language=demo.language,
    )
    done = run_experiment(config, console)
    console.print(rows_table([item.row for item in done.matrix]))
    tell(done, console)
    plot(done, config, console)
    console.print(verdict([item.row for item in done.matrix]), highlight=False)
    console.print(f"{time.monotonic() - begun:.0f} s", highlight=False)
    return 0


def verdict(rows: list[dict]) -> str:
    """The cheapest learned row within a point of always FULL, in one sentence."""
    full = next(row for row in rows if row["baseline_name"] == "always_full")
    learned = [row for row in rows if row["baseline_name"] == "" and row["accuracy"] is not None]
    near = [row for row in learned if row["accuracy"] >= full["accuracy"] - 0.01]
    if not near:
        return f"no learned row is within a point of always FULL ({100 * full['accuracy']:.1f} %)"
    best = min(near, key=lambda row: row["avg_cost"])
    share = 100 * best["avg_cost"] / full["avg_cost"]
    return (
        f"{best['row']}: {100 * best['accuracy']:.1f} % at {share:.0f} % of the cost of always FULL "
        f"({100 * full['accuracy']:.1f} %)"
    )
