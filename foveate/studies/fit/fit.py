"""The study: time, measure, sum up, decide.

done = fit_pruning(FitConfig(policy="metaworld_tiny", episodes="demos/metaworld", minutes=10))
done.recommendation.lines[0], done.table.rows[0].label
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from foveate.engine.config import Eager
from foveate.engine.record import hash_folder
from foveate.evaluation.recorded import columns_of
from foveate.evaluation.scene import load_for_droid
from foveate.studies.fit.config import MAY_CHANGE, FitConfig
from foveate.studies.fit.episodes import first_observation, open_episodes
from foveate.studies.fit.measure import UNPRUNED, measure
from foveate.studies.fit.recommend import Recommendation, recommend
from foveate.studies.fit.table import BARS, Table, tabulate
from foveate.studies.fit.timing import time_variants
from foveate.studies.fit.validate import Validation, played, validate, write_validation
from foveate.studies.fit.write import write_fit
from foveate.studies.pruning.methods import METHODS, able, label_of
from foveate.util.files import JsonLines, alone_in
from foveate.util.progress import SILENT, Reporter
from foveate.util.provenance import provenance
from foveate.util.run_folder import same_study, to_dict, write_run_files
from foveate.util.shipped import find_policy


@dataclass(frozen=True)
class Fit:
    """What was found."""

    config: FitConfig
    table: Table
    recommendation: Recommendation
    left_out: dict[str, str]
    """Methods that the policy cannot run, and why."""
    validation: Validation | None
    """None: no sweep was named."""
    files: tuple[Path, ...]


@alone_in(lambda config: config.folder, "fitting")
def fit_pruning(config: FitConfig, report: Reporter = SILENT) -> Fit:
    """Measure what the folder lacks, until the time is up, and write table and recommendation.

    Raises:
        FoveateError: the episodes are of another robot or all alike, a named method that the policy cannot run, or the
            folder holds the fit of another checkpoint or of other episodes; `against` is no sweep of this policy.
    """
    until = time.monotonic() + 60 * config.minutes
    out = config.folder
    with report.status("loading the policy"):
        policy = load_for_droid(replace(config, engine=Eager()))
        checkpoint = hash_folder(find_policy(config.policy))
    source = open_episodes(config.episodes, policy.processor.robot)
    columns = columns_of(source, policy.processor.robot)
    known = {"checkpoint": checkpoint, "episodes": f"{source.name}, {len(source)} episodes"}
    same_study(out, config, known, MAY_CHANGE, "fit")
    wanted = [method for method in METHODS if not config.methods or method in (*BARS, *config.methods)]
    methods, left_out = able(policy, wanted, config.methods, min(config.budgets))
    for method, reason in left_out.items():
        report.warn(f"{method}: left out ({reason})")
    budgets = sorted(set(config.budgets), reverse=True)
    labels = [label_of(method, budget) for method in methods for budget in budgets]
    if config.against is not None:
        played(config.against, labels, checkpoint)  # a wrong folder is told of before the measurement, not after
    first = first_observation(source, columns)
    engine = config.settled_engine()
    groups = [[UNPRUNED], *([label_of(method, budget) for method in methods] for budget in budgets)]
    times = time_variants(policy, find_policy(config.policy), engine, groups, first, report)
    write_run_files(out, config, config.seed)
    log = JsonLines(out / "frames.jsonl", lambda row: (row["episode"], row["label"]))
    try:
        measure(config, policy, labels, source, columns, log, until, report)
    finally:
        log.close()
    table = tabulate(log.rows, labels, times)
    verdict = recommend(table, config.tolerance)
    facts = {"policy": policy.spec.name, "engine": engine.label, "left_out": left_out, **provenance()}
    files = write_fit(out, table, verdict, checkpoint, {**facts, "config": to_dict(config)})
    found = None if config.against is None else validate(config.against, table, checkpoint)
    if found is not None:
        files = (*files, write_validation(out, found))
    return Fit(config, table, verdict, left_out, found, files)
