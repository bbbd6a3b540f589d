"""A cap on the dumps of a run that spreads over tasks and episodes, though nobody knows beforehand how many come.

    cap = DumpCap(60)
    admitted, gone = cap.admit((task, episode, step))

While there is room everything is admitted. After that the fullest task gives way to the others, in it the fullest
episode, and in that the step that lies closest behind the one before it; an episode that is the fullest itself gets no
more. Where there are more episodes (or tasks) than dumps, those that stay lie evenly over the run.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence

Key = tuple[int, int, int]
"""Task, episode, step."""


class DumpCap:
    """Which of the inferences of a run keep their dumps.

    Args:
        limit: dumps at most.
        held: those that are there already.
    """

    def __init__(self, limit: int, held: Iterable[Key] = ()) -> None:
        self._limit, self._count = limit, 0
        self._steps: dict[int, dict[int, list[int]]] = {}
        for key in sorted(set(held)):
            self._add(key)

    def __contains__(self, key: Key) -> bool:
        task, episode, step = key
        return step in self._steps.get(task, {}).get(episode, ())

    def admit(self, key: Key) -> tuple[bool, Key | None]:
        """Whether this inference gets a dump, and the one whose dump gives way to it."""
        if key in self:
            return True, None
        self._add(key)
        if self._count <= self._limit:
            return True, None
        gone = self._superfluous(key)
        self._remove(gone)
        return (False, None) if gone == key else (True, gone)

    def forget(self, task: int, episode: int) -> None:
        """The dumps of this episode are gone."""
        for step in list(self._steps.get(task, {}).get(episode, ())):
            self._remove((task, episode, step))

    def _superfluous(self, new: Key) -> Key:
        sizes = {task: sum(map(len, episodes.values())) for task, episodes in self._steps.items()}
        task = _fullest(sizes, new[0])
        episode = _fullest({e: len(steps) for e, steps in self._steps[task].items()}, new[1] if task == new[0] else -1)
        steps = self._steps[task][episode]
        return new if (task, episode) == new[:2] and len(steps) > 1 else (task, episode, steps[_crowded(steps)])

    def _add(self, key: Key) -> None:
        task, episode, step = key
        insort(self._steps.setdefault(task, {}).setdefault(episode, []), step)
        self._count += 1

    def _remove(self, key: Key) -> None:
        task, episode, step = key
        episodes = self._steps[task]
        episodes[episode].remove(step)
        if not episodes[episode]:
            del episodes[episode]
        if not episodes:
            del self._steps[task]
        self._count -= 1


def _fullest(sizes: dict[int, int], own: int) -> int:
    """The number with the largest size; among equals one's own, and where each has but one, the most crowded."""
    most = max(sizes.values())
    if most == 1:
        numbers = sorted(sizes)
        return numbers[_crowded(numbers)]
    return own if sizes.get(own) == most else min(number for number, size in sizes.items() if size == most)


def _crowded(numbers: Sequence[int]) -> int:
    """Index of the first one that lies closest behind its predecessor; 0 where there is but one."""
    return min(range(1, len(numbers)), key=lambda i: numbers[i] - numbers[i - 1], default=0)
