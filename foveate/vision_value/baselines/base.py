"""What every rule offers."""

from __future__ import annotations

from typing import Any, Protocol

from foveate.vision_value.outcomes import Decisions, Outcomes


class Rule(Protocol):
    """Chooses among the three answers to each question; a look-up in passes already made."""

    @property
    def name(self) -> str:
        """The `baseline_name` of its row; empty for the learned head."""
        ...

    @property
    def needs(self) -> frozenset[str]:
        """Passes it cannot do without: of `text`, `NO`, `COARSE`, `FULL`."""
        ...

    def facts(self) -> dict[str, Any]:
        """Its parameters, as columns of its row."""
        ...

    def decide(self, outcomes: Outcomes) -> Decisions:
        """What it does with each question."""
        ...


EVERY_PASS = frozenset({"text", "NO", "COARSE", "FULL"})
EVERY_ANSWER = frozenset({"NO", "COARSE", "FULL"})
