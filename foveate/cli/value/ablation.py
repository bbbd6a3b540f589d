"""`foveate value ablate`: inputs (D1), objective (D2), price in training (D3), actions (D4), as one table.

Every variant is a head of its own on the same cached passes, so the whole table costs the three passes and some seconds
per head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from foveate.evaluation.vqa.config import VqaConfig
    from foveate.vision_value.checkpoint import TrainedHead
    from foveate.vision_value.config import HeadConfig

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
    "D3 λ>0, straight-through": ("D3", {"use_straight_through": True}),
    "D3 λ>0, soft mixture": ("D3", {"use_straight_through": False}),
    "D3 λ=0, straight-through": ("D3", {"use_straight_through": True, "lambda_cost": 0.0}),
    "D3 λ=0, soft mixture": ("D3", {"use_straight_through": False, "lambda_cost": 0.0}),
    "D4 binary": ("D4", {"action_space": "binary"}),
    "D4 ternary": ("D4", {"action_space": "ternary"}),
}
"""Name -> (ablation, what differs from the configured policy)."""


def ablate(argv: list[str]) -> int:
    """The verb: `ablation.csv/json`, `results.csv`, `summary.json`, a table, a plot."""
    from rich.console import Console

    from foveate.cli.config import parse
    from foveate.evaluation.vqa.config import VqaConfig

    config = parse(VqaConfig, argv, "foveate value ablate")
    run_ablation(config, Console())
    return 0


def run_ablation(config: VqaConfig, console: Console) -> None:
    """Train every variant on the training passes and read it off on the evaluation sets."""
    from foveate.cli.eval.vqa import joined, prepare_folder, run_experiment
    from foveate.cli.value.report import tell
    from foveate.cli.value.train import fit_head, training_passes
    from foveate.evaluation.vqa.files import write_both
    from foveate.evaluation.vqa.load import load_sets, tuned_folder
    from foveate.evaluation.vqa.rows import COLUMNS
    from foveate.viz.value.curves import plot_ablation

    folder = Path(config.output_dir or "outputs/ablation")
    config = dataclasses.replace(config, output_dir=str(folder), pareto=config.pareto or LAMBDAS)
    prepare_folder(folder, config.language)
    tuned = tuned_folder(config)
    home = tuned.parent if tuned.is_dir() else folder  # a model that stage 1 has tuned already serves here too
    with joined(config) as world:
        load_sets(config)  # what cannot be read is said before the training
        passes = training_passes(config, console, world, home)
        if passes is None:
            # Another process's share of the evaluation; it has no heads and writes nothing.
            keys = dataclasses.replace(config.training, output_dir=str(home))
            run_experiment(dataclasses.replace(config, pareto=(), training=keys), console, rules=lambda *_: [])
            return
        trained, fitted = [], {}
        for name, (_, changes) in VARIANTS.items():
            own = dataclasses.replace(config, policy=dataclasses.replace(config.policy, **changes))
            # The configured policy stands in several of the ablations.
            known = repr(own.policy)
            if known not in fitted:
                fitted[known] = fit_head(own, passes, console, label=name)
            trained.append((name, own.policy, fitted[known]))
        done = run_experiment(
            config,
            console,
            rules=lambda config, scored, _: _rules(config, trained),
            matrix=False,
            heads=[one for _, _, one in trained],
            vlm=passes.vlm,
        )
    rows = [{"ablation": VARIANTS.get(i.row["checkpoint"] or "", ("",))[0], **i.row} for i in done.rows]
    write_both(folder, "ablation", rows, ("ablation", *COLUMNS))
    console.print(ablation_table(rows))
    tell(done, console)
    for path in plot_ablation(rows, folder, config.language):
        console.print(f"plot: {path}", highlight=False, soft_wrap=True)


def _rules(config: VqaConfig, trained: Sequence[tuple[str, HeadConfig, TrainedHead]]) -> list[Any]:
    """The fixed rules, and each variant's head: of gains at every lambda, of a policy at its own."""
    from foveate.vision_value.baselines import Always
    from foveate.vision_value.learned import Learned

    found: list[Any] = [Always("FULL"), Always("COARSE"), Always("NO")]
    for name, policy, one in trained:
        lambdas = config.pareto if policy.use_straight_through is None else (policy.lambda_cost,)
        found += [Learned(one.head, lam, policy, name) for lam in lambdas]
    return found


def ablation_table(rows: list[dict[str, Any]]) -> Any:
    """One line per variant and data set: accuracy, and below it the cost, at each lambda."""
    from rich.table import Table

    table = Table(caption="accuracy in %, below it the cost (a FULL look is 1); a policy's own λ is trained into it")
    lambdas = sorted({row["lambda_cost"] for row in rows if row["lambda_cost"] is not None})
    several = len({row["dataset"] for row in rows}) > 1
    for heading in [*(["set"] if several else []), "variant"]:
        table.add_column(heading, overflow="fold")
    for value in lambdas:
        table.add_column(f"λ={value:g}", justify="right", no_wrap=True)
    names = dict.fromkeys((row["dataset"], row["checkpoint"] or row["row"]) for row in rows)
    for dataset, name in names:
        mine = [r for r in rows if (r["dataset"], r["checkpoint"] or r["row"]) == (dataset, name)]
        at = {r["lambda_cost"]: _cell(r) for r in mine}
        cells = [at.get(value, at.get(None, "")) for value in lambdas]
        table.add_row(*([dataset] if several else []), name, *cells)
    return table


def _cell(row: dict[str, Any]) -> str:
    accuracy = "" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}"
    return f"{accuracy}\n{row['avg_cost']:.3f}"
