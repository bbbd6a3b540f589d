"""Where image-text models differ: the picture's tokens, its features, positions and the attention among the prompt.

One small class per family, chosen by `config.model_type`; all else is common. What a packaged processor would do is
done here from its two parts, the image processor and the tokenizer, because some packaged ones need torchvision.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class ModelImage:
    """One picture as a model takes it."""

    pixels: dict[str, Tensor]
    """Inputs of `get_image_features`; pictures are joined along the first axis."""
    ids: tuple[int, ...]
    """What stands for it in the prompt: image tokens and the marks around them."""
    tokens: int
    """Image tokens among `ids`."""
    grid: tuple[int, int] | None
    """Rows and columns of the image tokens; None: several tiles."""

    @property
    def shape(self) -> tuple[Any, ...]:
        """Pictures of one shape go through the model together."""
        return self.ids, tuple((name, tuple(value.shape)) for name, value in sorted(self.pixels.items()))


@dataclass(frozen=True)
class VisionFeatures:
    """Pictures of one shape after the vision tower and the merger."""

    tokens: Tensor
    """float [B, P, D]."""
    deep: tuple[Tensor, ...] = ()
    """Qwen3-VL: [B, P, D] each, added behind the first language layers."""


class Family(ABC):
    """Text positions count the tokens; attention is causal; a picture is `image_token` repeated."""

    image_token = "<image>"
    marks: tuple[str, str] | None = None
    image_first = False
    bidirectional = False
    """Whether the whole prompt attends to itself in both directions."""
    first_position = 0
    packs_pictures = False
    """Whether the vision tower puts all pictures of a batch into one sequence."""
    axes: int | None = None
    """Axes of the position ids; None: one."""
    token_cap: int | None = None
    """Most image tokens of a picture, for families in which its size alone does not say how many it gets."""

    def __init__(self, config: Any, processor: Any, tokenizer: Any) -> None:
        self.config, self.processor, self.tokenizer = config, processor, tokenizer
        self.image_token = getattr(tokenizer, "image_token", None) or self.image_token
        self._known: dict[str, tuple[int, ...]] = {}

    @property
    def token_side(self) -> int | None:
        """Side in pixels of what one image token shows; None: the model resizes every picture to its own size."""
        return None

    def images(self, pictures: Sequence[Image.Image]) -> list[ModelImage]:
        """Pictures, resized already, through the model's own processor."""
        made = []
        for pixels in self.process(pictures):
            ids = self._ids(self.expand(pixels))
            pixels = {name: value for name, value in pixels.items() if isinstance(value, Tensor)}
            made.append(ModelImage(pixels, ids, ids.count(self.config.image_token_id), self.grid(pixels)))
        return made

    def _ids(self, text: str) -> tuple[int, ...]:
        if text not in self._known:
            self._known[text] = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._known[text]

    def process(self, pictures: Sequence[Image.Image]) -> list[dict[str, Any]]:
        """What the processor makes of each picture."""
        return [dict(self.processor(images=[picture], return_tensors="pt")) for picture in pictures]

    @abstractmethod
    def expand(self, pixels: dict[str, Any]) -> str:
        """The string that stands for the picture."""

    def grid(self, pixels: dict[str, Tensor]) -> tuple[int, int] | None:
        return None

    def features(self, model: Any, pixels: dict[str, Tensor]) -> VisionFeatures:
        """Encode pictures of one shape, joined."""
        pooled = model.get_image_features(**pixels, return_dict=True).pooler_output
        return VisionFeatures(pooled if isinstance(pooled, Tensor) else torch.stack(list(pooled)))

    def positions(self, prefix: int, span: list[bool], grid: tuple[int, int] | None, suffix: int) -> Tensor:
        """int64 [N] or [3, N]: position ids of a whole prompt.

        Args:
            span: of each token of the picture's run, whether it is an image token.
        """
        return torch.arange(prefix + len(span) + suffix) + self.first_position


class Qwen(Family):
    """Qwen2-VL, Qwen2.5-VL, Qwen3-VL: dynamic resolution, M-RoPE (time, row, column)."""

    image_token = "<|image_pad|>"
    marks = ("<|vision_start|>", "<|vision_end|>")
    packs_pictures = True
    axes = 3

    @property
    def token_side(self) -> int:
        return int(self.processor.patch_size * self.processor.merge_size)

    def process(self, pictures: Sequence[Image.Image]) -> list[dict[str, Any]]:
        # One call for all: the processor's checks cost more than its work on a small picture.
        if not pictures:
            return []
        # The budget has the say how small a picture may be: a packaged least size would enlarge it again.
        least = min(self.processor.size["shortest_edge"], self.token_side**2)
        size = {"shortest_edge": least, "longest_edge": self.processor.size["longest_edge"]}
        made = self.processor(images=list(pictures), size=size, return_tensors="pt")
        grids = made["image_grid_thw"]
        parts = made["pixel_values"].split(grids.prod(-1).tolist())
        return [{"pixel_values": part, "image_grid_thw": grid[None]} for part, grid in zip(parts, grids, strict=True)]

    def expand(self, pixels: dict[str, Any]) -> str:
        rows, columns = self.grid(pixels)
        return self.marks[0] + self.image_token * (rows * columns) + self.marks[1]

    def grid(self, pixels: dict[str, Tensor]) -> tuple[int, int]:
        _, height, width = pixels["image_grid_thw"][0].tolist()
        return height // self.processor.merge_size, width // self.processor.merge_size

    def features(self, model: Any, pixels: dict[str, Tensor]) -> VisionFeatures:
        out = model.get_image_features(**pixels, return_dict=True)
        deep = getattr(out, "deepstack_features", None) or ()
        return VisionFeatures(torch.stack(list(out.pooler_output)), tuple(torch.stack(list(layer)) for layer in deep))

    def positions(self, prefix: int, span: list[bool], grid: tuple[int, int] | None, suffix: int) -> Tensor:
        """Text counts on all three axes; a picture takes one time step, its rows and its columns; the text
        behind it goes on after the longer side (Qwen2-VL, section 2.1)."""
        if grid is None:
            return torch.arange(prefix + suffix).expand(3, -1)
        lead, trail = span.index(True), span[::-1].index(True)
        start = prefix + lead
        rows, columns = grid
        picture = _grid_positions(rows, columns)
        after = torch.arange(trail + suffix) + start + max(rows, columns)
        return torch.cat([torch.arange(start).expand(3, -1), picture + start, after.expand(3, -1)], dim=1)


def _grid_positions(rows: int, columns: int) -> Tensor:
    """int64 [3, rows * columns]: time 0, row, column."""
    index = torch.arange(rows * columns)
    return torch.stack([torch.zeros_like(index), index // columns, index % columns])


class Tiles(Family):
    """Idefics3, SmolVLM: a picture is cut into square tiles, and a small view of the whole stands behind them."""

    @property
    def _length(self) -> int:
        vision = self.config.vision_config
        return int((vision.image_size // vision.patch_size) ** 2 // self.config.scale_factor**2)

    def process(self, pictures: Sequence[Image.Image]) -> list[dict[str, Any]]:
        # This processor enlarges every picture to `size`. What the budget allows, in whole tiles, is the most it may.
        tile, most = self.processor.max_image_size["longest_edge"], self.processor.size["longest_edge"]
        return [
            self._tiled(picture, min(math.ceil(max(picture.size) / tile) * tile, most), tile) for picture in pictures
        ]

    def _tiled(self, picture: Image.Image, size: int, tile: int) -> dict[str, Any]:
        """The tiles of a picture whose long side becomes `size`, or as many tiles less as the cap wants."""
        while True:
            made = self.processor(
                images=[[picture]], size={"longest_edge": size}, return_row_col_info=True, return_tensors="pt"
            )
            tokens = made["pixel_values"].shape[1] * self._length
            if self.token_cap is None or tokens <= self.token_cap or size <= tile:
                return dict(made)
            size -= tile

    def expand(self, pixels: dict[str, Any]) -> str:
        (rows,), (columns,) = pixels["rows"][0], pixels["cols"][0]
        fake = getattr(self.tokenizer, "fake_image_token", "<fake_token_around_image>")
        whole = getattr(self.tokenizer, "global_image_token", "<global-img>")
        tokens = self.image_token * self._length
        tiles = "".join(
            "".join(f"{fake}<row_{r + 1}_col_{c + 1}>{tokens}" for c in range(columns)) + "\n" for r in range(rows)
        )
        return f"{tiles}{chr(10) if rows else ''}{fake}{whole}{tokens}{fake}"

    def grid(self, pixels: dict[str, Tensor]) -> tuple[int, int] | None:
        side = math.isqrt(self._length)
        return (side, side) if pixels["pixel_values"].shape[1] == 1 else None

    def features(self, model: Any, pixels: dict[str, Tensor]) -> VisionFeatures:
        pooled = model.get_image_features(**pixels, return_dict=True).pooler_output
        return VisionFeatures(torch.stack(list(pooled)))


class Llava(Family):
    """LLaVA 1.5: every picture becomes a square of one size, with margins of the mean color as in its training.

    A packaged processor that crops would cut off the ends of a long picture instead.
    """

    def process(self, pictures: Sequence[Image.Image]) -> list[dict[str, Any]]:
        if not getattr(self.processor, "do_center_crop", False):
            return super().process(pictures)
        color = tuple(int(255 * x) for x in self.processor.image_mean)
        return super().process([_squared(picture, color) for picture in pictures])

    @property
    def _grid(self) -> tuple[int, int]:
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size
        return side, side

    def grid(self, pixels: dict[str, Tensor]) -> tuple[int, int] | None:
        return self._grid if self._count == self._grid[0] * self._grid[1] else None

    @property
    def _count(self) -> int:
        # `default` drops the tower's class token, `full` keeps it.
        return self._grid[0] * self._grid[1] + int(self.config.vision_feature_select_strategy == "full")

    def expand(self, pixels: dict[str, Any]) -> str:
        return self.image_token * self._count


def _squared(picture: Image.Image, color: tuple[int, ...]) -> Image.Image:
    """The picture in the middle of a square."""
    if picture.width == picture.height:
        return picture
    side = max(picture.size)
    square = Image.new("RGB", (side, side), color)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


class PaliGemma(Family):
    """PaliGemma 1 and 2: the picture first, then the text; the prompt attends in both directions."""

    image_first = True
    bidirectional = True
    first_position = 1

    def expand(self, pixels: dict[str, Any]) -> str:
        rows, columns = self.grid(pixels)
        return self.image_token * (rows * columns)

    def grid(self, pixels: dict[str, Tensor]) -> tuple[int, int]:
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size
        return side, side


FAMILIES: dict[str, type[Family]] = {
    "qwen3_vl": Qwen,
    "qwen2_5_vl": Qwen,
    "qwen2_vl": Qwen,
    "smolvlm": Tiles,
    "idefics3": Tiles,
    "llava": Llava,
    "paligemma": PaliGemma,
}
