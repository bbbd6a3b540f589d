"""A rule at work in a policy: what a batch looks at, and what each session remembers of it.

sight = Sight(rule, model.spec)
glance = sight.glance(pictures, states, sessions)
...                                                 # run the model with `glance.looks`
sight.remember(glance, patches)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from foveate.errors import FoveateError
from foveate.models.base import ModelSpec
from foveate.models.common.looks import Looks
from foveate.types import LEVELS, NO, VisionDecision
from foveate.vision_value.looking.base import Look, Memory, Now, Rule


@dataclass(frozen=True)
class Glance:
    """What a batch looks at."""

    decisions: list[VisionDecision]
    looks: Looks
    seen: list[Now]
    memories: list[Memory]


class Sight:
    """A rule, and the memories of all sessions.

    Raises:
        FoveateError: the rule does not fit the model's views, or a view cannot be halved.
    """

    def __init__(self, rule: Rule, spec: ModelSpec) -> None:
        odd = [f"{rows} x {columns}" for rows, columns in spec.grids if rows % 2 or columns % 2]
        if odd:
            raise FoveateError(
                f"looking: half of {odd[0]} patches is no whole grid, so this policy cannot look coarsely"
            )
        rule.check(spec.views)
        self.rule, self.spec = rule, spec
        self._memories: dict[str, Memory] = {}

    def reset(self, session: str | None = None) -> None:
        """Forget a session; None: all."""
        if session is None:
            self._memories.clear()
        else:
            self._memories.pop(session, None)

    def glance(
        self,
        pictures: Sequence[Mapping[str, np.ndarray]],
        states: Sequence[np.ndarray],
        sessions: Sequence[str | None] | None,
    ) -> Glance:
        """Decide for a batch.

        Args:
            pictures: view -> picture, of the cameras that are there.
            sessions: of each sample.
        Raises:
            FoveateError: the rule has a history, and a sample belongs to no session.
        """
        names = list(sessions) if sessions is not None else [None] * len(pictures)
        if self.rule.has_history and None in names:
            raise FoveateError(
                f"looking {self.rule.label} goes by what was seen before: pass session=, one name for each episode, "
                "and call reset(session) when it ends"
            )
        memories = [Memory() if name is None else self._memories.setdefault(name, Memory()) for name in names]
        seen = [Now(each, state) for each, state in zip(pictures, states, strict=True)]
        decisions = [self.rule.decide(now, memory) for now, memory in zip(seen, memories, strict=True)]
        return Glance(decisions, self._looks(decisions, memories), seen, memories)

    def _looks(self, decisions: Sequence[VisionDecision], memories: Sequence[Memory]) -> Looks:
        views = self.spec.views
        levels = np.array([[LEVELS.index(d.level.get(view, "NO")) for view in views] for d in decisions])
        if self.rule.no == "leave_out" or (levels != NO).all():
            return Looks(levels)
        known = next((look for memory in memories for look in memory.looks.values()), None)
        if known is None:
            return Looks(levels)
        earlier = known.tokens.new_zeros(*levels.shape, *known.tokens.shape)
        masks = np.zeros((*levels.shape, len(known.mask)), bool)
        for b, memory in enumerate(memories):
            for v, view in enumerate(views):
                if levels[b, v] == NO and view in memory.looks:
                    earlier[b, v], masks[b, v] = memory.looks[view].tokens, memory.looks[view].mask
        return Looks(levels, earlier, masks)

    def remember(self, glance: Glance, patches: Tensor) -> None:
        """Take in what was seen.

        Args:
            patches: [B, V * P, D], before pruning.
        """
        if not self.rule.has_history:
            return
        views, grid = self.spec.views, self.spec.grids[0]
        tokens = patches.unflatten(1, (len(views), -1))
        masks = glance.looks.slots(np.ones(glance.looks.levels.shape, bool), grid)
        for b, (memory, decision, now) in enumerate(zip(glance.memories, glance.decisions, glance.seen, strict=True)):
            for view, level in decision.level.items():
                if level != "NO":
                    v = views.index(view)
                    memory.looks[view] = Look(
                        now.pictures[view], level, memory.query, tokens[b, v].clone(), masks[b, v]
                    )
            memory.query += 1
            memory.state = now.state
