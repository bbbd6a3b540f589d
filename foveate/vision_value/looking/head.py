"""A trained head: look at a view where that is expected to change what the robot does by enough to pay.

    features = view_features(view, views, picture, before, age, state, state_before)

The head predicts, for one view, how much action error a COARSE and a FULL look avoid against reusing the last look; the
choice is argmax(gain - lambda * cost). It sees what costs next to nothing: thumbnails, the age of the last look, the
robot's state.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch

from foveate.errors import FoveateError
from foveate.types import LEVELS, NO, VisionLevel
from foveate.util.checks import number
from foveate.util.pictures import difference
from foveate.vision_value.checkpoint import TrainedHead, load_head
from foveate.vision_value.looking.base import Memory, Now, Rule

SIDE = 8
"""Of the thumbnails, in cells."""
FACTS = ("views", "state_dim", "max_age", "costs", "chosen_lambda")
"""What a head for looking has beside its weights."""


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] -> float32 [SIDE, SIDE], mean brightness of each cell, of 1."""
    rows, columns = (np.linspace(0, size, SIDE, endpoint=False).astype(int) for size in picture.shape[:2])
    # Whole numbers: a seventh of the time of a grey picture in float32.
    sums = np.add.reduceat(np.add.reduceat(picture, rows, 0, dtype=np.uint32), columns, 1).sum(2)
    cells = np.outer(np.diff([*rows, picture.shape[0]]), np.diff([*columns, picture.shape[1]]))
    return (sums / (3 * 255 * cells)).astype(np.float32)


def view_features(
    view: int,
    views: int,
    picture: np.ndarray,
    before: np.ndarray,
    age: int,
    state: np.ndarray,
    state_before: np.ndarray | None,
) -> np.ndarray:
    """float32 [F]: what the head sees of one of so many views.

    Args:
        picture, before: uint8 [h, w, 3], now and at the view's last look.
        age: inferences since then.
        state: float32 [S], now; `state_before` at the last inference.
    """
    now = thumbnail(picture)
    moved = np.zeros_like(state) if state_before is None else state - state_before
    which = np.arange(views) == view
    change = np.abs(now - thumbnail(before))
    parts = (change.ravel(), now.ravel(), [difference(before, picture), age], which, state, moved)
    return np.concatenate(parts).astype(np.float32)


@functools.lru_cache(maxsize=8)
def looking_head(path: str) -> TrainedHead:
    """Raises FoveateError where there is no head, or one for questions."""
    head = load_head(path)
    if lacking := [name for name in FACTS if name not in head.facts]:
        raise FoveateError(
            f"looking.path {path}: a head without {', '.join(lacking)}, so it is none for looking; `foveate train "
            "looking` makes one"
        )
    return head


@dataclass(frozen=True, kw_only=True)
class Head(Rule):
    """Look where a trained head expects that it pays."""

    path: str
    """Folder that `foveate train looking` wrote."""
    lambda_cost: float | None = None
    """Action error that one FULL look must avoid; null: as chosen on the validation episodes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.no != "reuse":
            raise FoveateError("looking head: it has learnt what reusing a look costs; leave looking.no out")
        if self.lambda_cost is not None:
            number("looking.lambda_cost", self.lambda_cost, 0)

    @property
    def label(self) -> str:
        return super().label + ("" if self.lambda_cost is None else f"_{self.lambda_cost:g}")

    def check(self, views: tuple[str, ...]) -> None:
        known = looking_head(self.path).facts["views"]
        if list(views) != list(known):
            raise FoveateError(
                f"looking.path {self.path}: a head for the views {', '.join(known)}, and the policy has "
                f"{', '.join(views)}"
            )

    def levels(self, now: Now, memory: Memory) -> tuple[dict[str, VisionLevel], dict[str, float]]:
        trained = looking_head(self.path)
        facts, views = trained.facts, list(trained.facts["views"])
        if len(now.state) != facts["state_dim"]:
            raise FoveateError(
                f"looking.path {self.path}: a head for a state of {facts['state_dim']} numbers, got {len(now.state)}"
            )
        lam = facts["chosen_lambda"] if self.lambda_cost is None else self.lambda_cost
        levels: dict[str, VisionLevel] = {}
        scores: dict[str, float] = {}
        for view, picture in now.pictures.items():
            look = memory.looks.get(view)
            age = 0 if look is None else memory.query - look.query
            if look is None or look.picture.shape != picture.shape or age > facts["max_age"]:
                levels[view] = "FULL"
                continue
            v = views.index(view)
            seen = view_features(v, len(views), picture, look.picture, age, now.state, memory.state)
            gains = predict(trained, seen[None])[0]
            worth = gains - lam * np.array(facts["costs"][v])
            if look.level != "FULL":  # what was reused when it learnt were FULL looks
                worth[NO] = -np.inf
            levels[view], scores[view] = LEVELS[int(worth.argmax())], float(gains[-1])
        return levels, scores


@torch.no_grad()
def predict(trained: TrainedHead, features: np.ndarray) -> np.ndarray:
    """float64 [n, 3]: action error that each level avoids against NO, of features float32 [n, F]."""
    gains: np.ndarray = trained.head(torch.from_numpy(features)).double().numpy()
    return gains
