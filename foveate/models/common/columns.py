"""Which columns of a data set are a robot's cameras, state and actions.

    columns = find_columns(robot, "path/of/the/set", dataset.cameras, {"observation.state": 8, "action": 7})

A data set may call a camera `observation.images.front`, `observation.image.front` or `front`; the mapping's names of
its views are looked for in all these forms. The state is one column (`observation.state`, `state`) of the right size,
or one column for each of its parts. Where a data set has other names, the robot's YAML says them under `columns`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foveate.errors import FoveateError
from foveate.models.common.robots import RobotMapping

STATE = ("observation.state", "state", "observation/state")
ACTIONS = ("action", "actions")
PREFIXES = ("", "observation.images.", "observation.image.", "observation/", "observation.")


@dataclass(frozen=True)
class Columns:
    """Names of a data set's columns."""

    cameras: Mapping[str, str]
    """View of the observation (a name that the mapping knows) -> camera."""
    state: tuple[str, ...]
    """Columns that make the state, side by side."""
    actions: tuple[str, ...]

    @property
    def vectors(self) -> tuple[str, ...]:
        """All numeric columns, each once."""
        return tuple(dict.fromkeys((*self.state, *self.actions)))

    def state_of(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """float32 [T, S] of an episode's columns."""
        return _side_by_side(rows, self.state)

    def actions_of(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """float32 [T, A] of an episode's columns."""
        return _side_by_side(rows, self.actions)


def find_columns(robot: RobotMapping, source: str, cameras: Sequence[str], sizes: Mapping[str, int]) -> Columns:
    """Match a robot mapping with the columns of a data set.

    Args:
        source: the data set, for messages.
        cameras: names of its cameras.
        sizes: numeric column -> numbers of one row.
    Raises:
        FoveateError: a view, the state or the actions are not there, or have another length than the mapping says.
    """
    return Columns(
        cameras=_cameras(robot, source, cameras),
        state=_vector(robot, source, "state", robot.state_dim, STATE, robot.state, sizes),
        actions=_vector(robot, source, "actions", robot.action_dim, ACTIONS, (), sizes),
    )


def _cameras(robot: RobotMapping, source: str, cameras: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for view, names in robot.views.items():
        forms = [(name, prefix + name) for name in names for prefix in PREFIXES]
        match = next(((name, form) for name, form in forms if form in cameras), None)
        if match is not None:
            found[match[0]] = match[1]
        elif names and view not in robot.optional_views:
            raise FoveateError(
                f"{source}: no camera {' or '.join(map(repr, names))} (model view {view!r} of robot {robot.name!r}); "
                f"its cameras are {', '.join(cameras) or 'none'}: name the right one in the robot's YAML under views"
            )
    return found


def _vector(
    robot: RobotMapping,
    source: str,
    what: str,
    size: int,
    usual: Sequence[str],
    parts: Sequence[tuple[str, int]],
    sizes: Mapping[str, int],
) -> tuple[str, ...]:
    declared = robot.columns.get(what, ())
    if missing := [name for name in declared if name not in sizes]:
        raise FoveateError(
            f"{source}: no column {missing[0]!r} (columns.{what} of robot {robot.name!r}); it has {', '.join(sizes)}"
        )
    whole = declared or next(((name,) for name in usual if name in sizes), ())
    if whole and sum(sizes[name] for name in whole) == size:
        return tuple(whole)
    named = tuple(next((p + name for p in PREFIXES if sizes.get(p + name) == length), "") for name, length in parts)
    if not declared and named and all(named):
        return named
    has = ", ".join(f"{name} ({length})" for name, length in sizes.items()) or "no numeric column"
    got = f"{' + '.join(whole)} has {sum(sizes[name] for name in whole)}" if whole else "there is none"
    raise FoveateError(
        f"{source}: robot {robot.name!r} expects {size} numbers as {what}, and {got}; the set's columns are {has}: "
        f"choose the mapping of this robot, or name the columns in its YAML under columns.{what}"
    )


def _side_by_side(rows: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    parts: Iterator[np.ndarray] = (rows[name].reshape(len(rows[name]), -1) for name in names)
    return np.concatenate(list(parts), axis=1).astype(np.float32)
