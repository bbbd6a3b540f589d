"""Names of task suites. `resolve_tasks("foveate")`, `resolve_tasks("push,reach")`, `resolve_tasks("libero_goal")`."""

from __future__ import annotations

from collections.abc import Iterable

from foveate.envs.libero import suites as libero
from foveate.errors import FoveateError, unknown

FOVEATE = (
    "reach-v3",
    "push-v3",
    "pick-place-v3",
    "button-press-topdown-v3",
    "drawer-open-v3",
    "drawer-close-v3",
    "window-open-v3",
)
"""The set that the shipped policy is trained on; the first three share a scene."""

MT10 = (
    "reach-v3",
    "push-v3",
    "pick-place-v3",
    "door-open-v3",
    "drawer-open-v3",
    "drawer-close-v3",
    "button-press-topdown-v3",
    "peg-insert-side-v3",
    "window-open-v3",
    "window-close-v3",
)

SUITES = ("foveate", "mt10", "mt50", *libero.PLAIN)


def env_of_suite(name: str) -> str:
    """The environment (`metaworld` or `libero`) that a suite or list of tasks belongs to."""
    return "libero" if name.strip().startswith("libero_") else "metaworld"


def resolve_tasks(name: str, env: str | None = None) -> tuple[str, ...]:
    """A suite's name, or tasks separated by commas, to the environment's full names, in order.

    Meta-World tasks may be given with or without `-v3`; LIBERO tasks are `libero_goal/3`. `env` None: by the name.
    """
    name = name.strip()
    env = env or env_of_suite(name)
    if env == "libero":
        return _each_once(task for part in _split(name) for task in libero.resolve(part))
    if env != "metaworld":
        return tuple(_split(name))
    if name == "foveate":
        return FOVEATE
    if name == "mt10":
        return MT10
    from foveate.envs.metaworld.env import all_tasks, canonical_task

    if name == "mt50":
        return all_tasks()
    tasks = []
    for part in _split(name):
        try:
            tasks.append(canonical_task(part))
        except FoveateError as error:
            if "unknown" not in str(error):
                raise
            short = [t.removesuffix("-v3") for t in all_tasks()]
            raise unknown("task or suite", part, [*SUITES, *short]) from error
    return _each_once(tasks)


def _each_once(tasks: Iterable[str]) -> tuple[str, ...]:
    tasks = tuple(tasks)
    if len(set(tasks)) != len(tasks):
        raise FoveateError(f"tasks: expected each once, got {', '.join(tasks)}")
    return tasks


def _split(name: str) -> list[str]:
    parts = [p.strip() for p in name.split(",") if p.strip()]
    if not parts:
        raise FoveateError(f"tasks: expected a suite ({', '.join(SUITES)}) or task names, got {name!r}")
    return parts
