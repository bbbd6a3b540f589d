"""`foveate demo vqa`: the whole comparison on the model that ships with foveate, from three passes, with its curve."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

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
    from foveate.cli.eval.vqa import run_experiment
    from foveate.cli.value.report import compare_all, plot, rows_table, tell
    from foveate.evaluation.vqa.config import EvalConfig, ModelConfig, VqaConfig
    from foveate.evaluation.vqa.load import shipped_head

    demo = parse(DemoVqaConfig, argv, "foveate demo vqa")
    console, begun = Console(), time.monotonic()
    policy = shipped_head(MODEL)
    config = VqaConfig(
        model=ModelConfig(path=MODEL),
        eval=EvalConfig(batch_size=64, max_new_tokens=1, cache_dir=None),
        dataset_config=demo.dataset,
        checkpoint=(str(policy),),
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
    for line in verdict([item.row for item in done.matrix], compare_all(done, 0)):
        console.print(line, highlight=False)
    console.print(f"{time.monotonic() - begun:.0f} s", highlight=False)
    return 0


def verdict(rows: list[dict[str, Any]], margins: list[dict[str, Any]]) -> list[str]:
    """The learned row whose lambda validation has chosen, and how far it lies above each rival's curve."""
    full = next(row for row in rows if row["baseline_name"] == "always_full")
    chosen = next(row for row in rows if row["chosen"])
    share = 100 * chosen["avg_cost"] / full["avg_cost"]
    lines = [
        f"{chosen['row']}: {100 * chosen['accuracy']:.1f} % at {share:.0f} % of the cost of always FULL "
        f"({100 * full['accuracy']:.1f} %)"
    ]
    for margin in margins:
        if margin["row"] == chosen["row"] and margin["rival"] != "always_full":
            low, high = 100 * margin["margin_low"], 100 * margin["margin_high"]
            lines.append(
                f"  against {margin['rival']} at the same cost: {100 * margin['margin']:+.1f} points "
                f"({low:+.1f} to {high:+.1f})"
            )
    return lines
