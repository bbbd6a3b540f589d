"""How large a picture is at each level: NO, COARSE, FULL.

A picture is shrunk, never enlarged, until its long side, its area and its expected number of tokens fit; then its sides
are rounded to whole tokens. What the model's own processor makes of it (and what is paid) is counted afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

from foveate.errors import FoveateError
from foveate.types import VisionLevel

LEVELS: tuple[VisionLevel, ...] = ("NO", "COARSE", "FULL")


@dataclass(frozen=True)
class VisionBudget:
    """What COARSE and FULL may cost."""

    coarse_long_side: int = 224
    """Longest side of a COARSE picture, in pixels."""
    full_long_side: int = 1024
    """Longest side of a FULL picture, in pixels."""
    coarse_max_pixels: int | None = None
    """Largest area of a COARSE picture, in pixels; null: the long side alone counts."""
    full_max_pixels: int | None = None
    """Largest area of a FULL picture, in pixels."""
    patch_size: int | None = None
    """Side in pixels of what one vision token shows; sides are rounded to it. null: the model's own."""
    token_cap: int | None = None
    """Most vision tokens of any picture, at `patch_size`; null: no cap. Models that cut pictures take fewer tiles;
    those that give every picture one number of tokens are not concerned."""

    def __post_init__(self) -> None:
        for name in ("coarse_long_side", "full_long_side", "coarse_max_pixels", "full_max_pixels", "patch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise FoveateError(f"vision_budget.{name}: expected at least 1 pixel, got {value}")
        if self.token_cap is not None and self.token_cap < 1:
            raise FoveateError(f"vision_budget.token_cap: expected at least 1 token, got {self.token_cap}")
        if self.coarse_long_side > self.full_long_side:
            raise FoveateError(
                f"vision_budget: COARSE ({self.coarse_long_side} px) is larger than FULL ({self.full_long_side} px); "
                "exchange coarse_long_side and full_long_side"
            )


def target_size(width: int, height: int, level: VisionLevel, budget: VisionBudget) -> tuple[int, int]:
    """(width, height) in pixels of a picture of this size at COARSE or FULL."""
    if level == "NO":
        raise FoveateError("a picture has no size at level NO: it is not looked at")
    coarse = level == "COARSE"
    side = budget.coarse_long_side if coarse else budget.full_long_side
    area = budget.coarse_max_pixels if coarse else budget.full_max_pixels
    patch = budget.patch_size or 1
    scale = min(1.0, side / max(width, height))
    if area is not None:
        scale = min(scale, math.sqrt(area / (width * height)))
    w, h = (max(1, round(x * scale / patch)) for x in (width, height))
    # Where no patch is known, pixels say nothing about tokens: the family holds the cap, or the model has one number.
    if budget.token_cap is not None and budget.patch_size is not None and w * h > budget.token_cap:
        shrink = math.sqrt(budget.token_cap / (w * h))
        w, h = (max(1, math.floor(x * shrink)) for x in (w, h))
        # A very long picture of one row of tokens: the floor of 1 took more than its share.
        w, h = min(w, budget.token_cap), min(h, budget.token_cap)
    return w * patch, h * patch


def resize(image: Image.Image, level: VisionLevel, budget: VisionBudget) -> Image.Image:
    """The RGB picture at a level, shrunk with PIL's antialiased bicubic filter."""
    size = target_size(image.width, image.height, level, budget)
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
