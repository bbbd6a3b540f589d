"""What three passes over a set of questions have shown: one row per question, one column per action.

    gains = outcomes.gains        # nats per answer token that COARSE and FULL earn over NO

Plain arrays on the host. Columns of an array of three are NO, COARSE, FULL; a pass that was not made is NaN.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Outcomes:
    """n questions; D is the width of the text-first pass's hidden state."""

    questions: tuple[str, ...]
    """The question's string, which the lookup of the wording sees; context and options are left out."""
    correct: np.ndarray
    """float64 [n, 3], score in [0, 1] (the benchmark's own; TextVQA's is a fraction)."""
    loss: np.ndarray
    """float64 [n, 3], nats per answer token; NaN where the answer is not public."""
    tokens: np.ndarray
    """float64 [n, 3], vision tokens as the model's processor counts them."""
    answer_entropy: np.ndarray
    """float64 [n, 3], nats: of the answer's first token, or over the options."""
    answer_margin: np.ndarray
    """float64 [n, 3], first probability less the second, of the same distribution."""
    entropy: np.ndarray
    """float64 [n], nats: next token after the text-first pass."""
    margin: np.ndarray
    """float64 [n], in [0, 1]."""
    hidden: np.ndarray
    """float32 [n, D], mean over the valid tokens of the text-first pass's last layer; D = 0: not made."""

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def gains(self) -> np.ndarray:
        """float64 [n, 3]: loss without looking less the loss of each action; column NO is 0."""
        return self.loss[:, :1] - self.loss

    def take(self, index: np.ndarray) -> Outcomes:
        """These questions alone, in this order; `index` is int [m] or bool [n]."""
        rows = np.arange(len(self))[index]
        arrays = {f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self) if f.name != "questions"}
        return Outcomes(questions=tuple(self.questions[i] for i in rows), **arrays)


@dataclass(frozen=True)
class Decisions:
    """What a rule does with each of n questions."""

    action: np.ndarray
    """int64 [n]: the action whose answer counts."""
    paid: np.ndarray
    """bool [n, 3]: every pass that was run on the way there."""
    fallback: np.ndarray
    """bool [n]: NO was raised because the text-first pass was unsure."""

    @classmethod
    def of(cls, action: np.ndarray) -> Decisions:
        """One pass each, and that one counts."""
        action = np.asarray(action, dtype=np.int64)
        return cls(action, action[:, None] == np.arange(3), np.zeros(len(action), dtype=bool))

    @property
    def ratios(self) -> np.ndarray:
        """float64 [3]: shares of NO, COARSE and FULL."""
        return np.bincount(self.action, minlength=3) / max(len(self.action), 1)
