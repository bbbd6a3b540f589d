"""`foveate value ablate`: inputs (D1), objective (D2), price in training (D3), actions (D4), as one table.

Every variant is a head of its own on the same cached passes, so the whole table costs the three passes and some seconds
per head.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from foveate.evaluation.vqa_config import VqaConfig

LAMBDAS = (0.02, 0.05, 0.1, 0.2, 0.5)
"""Where a head of gains is read off, unless `--pareto` says otherwise."""
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "D1 hidden": ("D1", {"feature_mode": "hidden"}),
    "D1 hidden+entropy": ("D1", {"feature_mode": "hidden_entropy"}),
    "D1 hidden+margin": ("D1", {"feature_mode": "hidden_margin"}),
    "D1 hidden+entropy+margin": ("D1", {"feature_mode": "hidden_entropy_margin"}),
    "D2 gain regression": ("D2", {}),
    "D2 gain ranking": ("D2", {"gain_loss": "rank"}),
    "D2 Gumbel straight-through": ("D2", {"use_straight_through": True}),
    "D2 soft mixture": ("D2", {"use_straight_through": False}),
    "D3 λ=0, straight-through": ("D3", {"use_straight_through": True, "lambda_cost": 0.0}),
    "D3 λ=0, soft mixture": ("D3", {"use_straight_through": False, "lambda_cost": 0.0}),
    "D4 binary": ("D4", {"action_space": "binary"}),
    "D4 ternary": ("D4", {"action_space": "ternary"}),
}
"""Name -> (ablation, what differs from the configured policy)."""


def ablate(argv: list[str]) -> int:
    """The verb: `ablation.csv/json`, `results.csv`, `summary.json`, a table."""
    from rich.console import Console

    from foveate.cli.config import parse
    from foveate.evaluation.vqa_config import VqaConfig

    config = parse(VqaConfig, argv, "foveate value ablate")
    run_ablation(config, Console())
    return 0


def run_ablation(config: VqaConfig, console: Console) -> None:
    """Train every variant on the training passes and read it off on the evaluation sets."""
    from foveate.cli.value import fit_policy, training_passes
    from foveate.cli.vqa import run_experiment
    from foveate.cli.vqa_output import tell
    from foveate.evaluation.vqa_files import write_both
    from foveate.evaluation.vqa_rows import COLUMNS
    from foveate.training.world import join_world
    from foveate.vision_value.learned import Learned

    folder = Path(config.output_dir or "outputs/ablation")
    config = dataclasses.replace(config, output_dir=str(folder), pareto=config.pareto or LAMBDAS)
    with join_world(config.model.device if config.model.device != "cuda" else "auto") as world:
        passes = training_passes(config, console, world, folder)
    if passes is None:
        return
    trained = []
    for name, (_, changes) in VARIANTS.items():
        own = dataclasses.replace(config, policy=dataclasses.replace(config.policy, **changes))
        trained.append((name, own.policy, fit_policy(own, passes, console, label=name)))

    def rules(config: VqaConfig, board: Any, policies: Any) -> list[Any]:
        from foveate.vision_value.baselines import Always

        found: list[Any] = [Always("FULL"), Always("COARSE"), Always("NO")]
        for name, policy, one in trained:
            lambdas = config.pareto if policy.use_straight_through is None else (policy.lambda_cost,)
            found += [Learned(one.head, lam, policy, name) for lam in lambdas]
        return found

    done = run_experiment(
        config, console, rules=rules, matrix=False, policies=[t for _, _, t in trained], vlm=passes.vlm
    )
    rows = [{"ablation": VARIANTS.get(i.row["checkpoint"] or "", ("",))[0], **i.row} for i in done.rows]
    write_both(folder, "ablation", rows, ("ablation", *COLUMNS))
    console.print(ablation_table(rows))
    tell(done, console)


def ablation_table(rows: list[dict[str, Any]]) -> Any:
    """One line per variant and data set: accuracy/cost at each lambda."""
    from rich.table import Table

    table = Table(caption="accuracy % at cost (a FULL look is 1); a policy's own λ is trained into it")
    lambdas = sorted({row["lambda_cost"] for row in rows if row["lambda_cost"] is not None})
    table.add_column("set")
    table.add_column("variant", no_wrap=True)
    for value in lambdas:
        table.add_column(f"λ={value:g}", justify="right", no_wrap=True)
    names = dict.fromkeys((row["dataset"], row["checkpoint"] or row["row"]) for row in rows)
    for dataset, name in names:
        mine = [r for r in rows if (r["dataset"], r["checkpoint"] or r["row"]) == (dataset, name)]
        at = {r["lambda_cost"]: f"{100 * r['accuracy']:.1f} at {r['avg_cost']:.2f}" for r in mine}
        cells = [at.get(value, at.get(None, "")) for value in lambdas]
        table.add_row(dataset, name, *cells)
    return table
