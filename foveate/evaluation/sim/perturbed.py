"""Does pruning cost robustness? The same policy, full and pruned, in a LIBERO suite and in its perturbed forms.

    for row in evaluate_perturbed(SimConfig(policy="p", task_suite_name="libero_spatial", perturb=("swap", "lan"))):
        print(row.perturbation, row.variant, row.successes, row.episodes)

Each perturbation and variant is a run folder of its own, `<folder>/<perturbation>/<variant>`, that goes on where it was
interrupted; `perturbed.csv` beside them holds the table.
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from foveate.envs.libero.suites import perturbed
from foveate.evaluation.sim.evaluate import Evaluated, evaluate, policy_of
from foveate.evaluation.sim.simulate import SimConfig, check_first, name_variant
from foveate.policy import Policy
from foveate.pruning import make_config
from foveate.util.files import write_text
from foveate.util.progress import SILENT, Reporter

PLAIN = "plain"


@dataclass(frozen=True)
class PerturbedRow:
    """One variant under one perturbation, all tasks together."""

    perturbation: str
    """`plain`, `swap`, `lan`, `task` or `object`."""
    variant: str
    successes: int
    episodes: int
    crashes: int
    ci_low: float
    """Of the success rate, Wilson, 95 %."""
    ci_high: float
    kept: float | None
    """Visual tokens per inference, mean."""
    folder: str


def evaluate_perturbed(config: SimConfig, report: Reporter = SILENT) -> list[PerturbedRow]:
    """Play what the folders lack, plain first, and write the table; of a server what it serves, which is one variant.

    Raises:
        FoveateError: a perturbation that is none or that lacks files, and what `evaluate` raises.
    """
    changes = tuple(dict.fromkeys(config.perturb or ()))
    suites = {PLAIN: config.task_suite_name}
    suites |= {change: ",".join(perturbed(config.task_suite_name, (change,))) for change in changes}
    check_first(config)
    policy = policy_of(config, report)
    variants: dict[str, tuple[Any, SimConfig]] = {name_variant(config, policy): (policy, config)}
    if not config.remote and policy.pruner is not None and policy.pruner.enabled:
        here = cast(Policy, policy)
        full = Policy(here.engine, here.processor, None, name=here.spec.name, device=here.device)
        none = replace(config, pruner=make_config("none"), variant=None)
        variants = {name_variant(none, full): (full, none)} | variants
    folder = folder_of(config)
    rows = []
    for change, suite in suites.items():
        for name, (loaded, options) in variants.items():
            report.line(f"{suite}, {name}")
            place: dict[str, Any] = {"trace_out_dir" if config.trace_out_dir else "out": str(folder / change / name)}
            one = replace(options, perturb=None, task_suite_name=suite, **place)
            rows.append(_row(change, evaluate(one, report, loaded)))
    write_text(folder / "perturbed.csv", _csv(rows))
    return rows


def folder_of(config: SimConfig) -> Path:
    """Where the runs and the table are."""
    suite = config.task_suite_name.replace(",", "+").replace("/", "-")
    return Path(config.trace_out_dir or config.out or f"runs/{Path(config.policy).name}_{suite}_perturbed")


def _row(change: str, run: Evaluated) -> PerturbedRow:
    total = run.summary["total"]
    low, high = total["ci95"]
    return PerturbedRow(
        change, run.variant, total["successes"], total["episodes"], total["crashes"], low, high, total["kept"]["mean"],
        str(run.folder),
    )  # fmt: skip


def _csv(rows: list[PerturbedRow]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(PerturbedRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()
