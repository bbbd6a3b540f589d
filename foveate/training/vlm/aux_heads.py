"""Auxiliary heads for a small model on the mixed set: they say what is in the picture, and fade out.

Yes/no answers teach a new vision tower almost nothing for hundreds of steps. Linear heads on its tokens (colours, kind
of shape, letters in the corners) and on the language layers (the value that is asked for; whether it is the one that
the question names, before a `not` turns it round) give it gradients from the first step. They are thrown away
afterwards.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.data.vqa.mixed import DATASET, MixedItem, items
from foveate.data.vqa.scene import COLORS, CORNERS, LETTERS, SHAPES
from foveate.types import VisionLevel, VQASample

LAYERS = (1, 2)
"""Language layers behind which the value that is asked for is known, and whether it is the one that was named."""
RANK = {"NO": 0, "COARSE": 1, "FULL": 2}
VALUES = (*COLORS, *SHAPES, *LETTERS)
GRID = 16
"""Image tokens of a FULL picture."""
MIDDLE = (5, 6, 9, 10)
"""Tokens of the 4 x 4 grid that hold the shape."""
CORNER = (0, 3, 12, 15)
IGNORE = -100


@functools.lru_cache(maxsize=1 << 10)
def item_of(name: str) -> MixedItem:
    """The item behind a sample's id: it is drawn from (seed, split, index) alone."""
    _, split, seed, index, *_ = name.split("/")
    return next(items(split, 1, int(seed), int(index)))


def asked_value(item: MixedItem, level: VisionLevel) -> int:
    """Index into `VALUES` of what is asked for, where this level can know it; else `IGNORE`."""
    if RANK[level] < RANK[item.facts.need] or "behind" in item.question:
        return IGNORE
    scene = item.scene
    if item.kind == "corner letter":
        value = scene.letters[next(i for i, corner in enumerate(CORNERS) if f"{corner} corner" in item.question)]
    else:
        value = {"background color": scene.background, "shape color": scene.color, "shape kind": scene.shape}[item.kind]
    return VALUES.index(value)


def agreement(item: MixedItem, level: VisionLevel) -> int:
    """1 where a yes/no question names the right value, 0 where a wrong one, whatever it negates; else `IGNORE`."""
    value = asked_value(item, level)
    if value == IGNORE or item.answer not in ("yes", "no"):
        return IGNORE
    return int(VALUES[value] in item.question.rstrip("?").split())


class AuxHeads(nn.Module):
    """Linear heads; `forward` gives the sum of their mean losses over a batch of one level.

    Args:
        width: of the image tokens and of the language model.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.background = nn.Linear(width, len(COLORS))
        self.color = nn.Linear(width, len(COLORS))
        self.shape = nn.Linear(width, len(SHAPES))
        self.letter = nn.Linear(width, len(LETTERS))
        self.place = nn.Linear(width, GRID)
        self.value = nn.Linear(width, len(VALUES))
        self.agree = nn.Linear(width, 2)

    def forward(
        self, samples: Sequence[VQASample], level: VisionLevel, tokens: Tensor | None, states: Sequence[Tensor]
    ) -> Tensor:
        """
        Args:
            tokens: [B, P, D] image tokens, P = 16 or 1; None: there are none.
            states: [B, D] behind each of `LAYERS`, at the prompt's last token.
        """
        known = [i for i, sample in enumerate(samples) if sample.dataset == DATASET]
        if not known:
            return states[0].sum() * 0
        mixed = [item_of(samples[i].id) for i in known]
        loss = _loss(self.value, states[0][known], [asked_value(item, level) for item in mixed])
        loss = loss + _loss(self.agree, states[1][known], [agreement(item, level) for item in mixed])
        if tokens is None:
            return loss
        tokens = tokens[known]
        full = tokens.shape[1] == GRID
        middle = tokens[:, list(MIDDLE)].mean(1) if full else tokens.mean(1)
        scenes = [item.scene for item in mixed]
        large = [full or scene.size == "large" for scene in scenes]
        colors = list(COLORS)
        loss = loss + _loss(self.background, tokens.mean(1), [colors.index(s.background) for s in scenes])
        loss = loss + _loss(self.color, middle, _where(large, [colors.index(s.color) for s in scenes]))
        loss = loss + _loss(self.shape, middle, _where(large, [SHAPES.index(s.shape) for s in scenes]))
        if full:
            letters = [LETTERS.index(letter) for s in scenes for letter in s.letters]
            loss = loss + _loss(self.letter, tokens[:, list(CORNER)].flatten(0, 1), letters)
            # Where a token is must be in the token, or no question finds its corner.
            loss = loss + _loss(self.place, tokens.flatten(0, 1), list(range(GRID)) * len(tokens))
        return loss


def _where(seen: list[bool], targets: list[int]) -> list[int]:
    return [target if see else IGNORE for see, target in zip(seen, targets, strict=True)]


def _loss(head: nn.Linear, features: Tensor, targets: list[int]) -> Tensor:
    wanted = torch.tensor(targets, device=features.device)
    total = F.cross_entropy(head(features), wanted, ignore_index=IGNORE, reduction="sum")
    return total / max(1, int((wanted != IGNORE).sum()))
