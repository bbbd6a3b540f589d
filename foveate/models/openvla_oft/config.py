"""Sizes of an OpenVLA-OFT policy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from foveate.errors import FoveateError
from foveate.models.base import ModelSpec

CROP = math.sqrt(0.9)
"""Side of the centre crop, of the picture's: 0.9 is its area."""
ActionRows = Literal["trained", "lightvla"]
"""Which hidden states the action head reads. A token's hidden state predicts the next one, so training (and upstream's
inference) reads the rows one before the placeholders; LightVLA's inference reads those one behind, two tokens off."""


@dataclass(frozen=True)
class TowerConfig:
    """One of the two vision transformers, as timm builds it."""

    width: int
    depth: int
    """Blocks that are stored. Features leave before the last one, which is read by nothing."""
    num_heads: int
    hidden: int
    """Width of the MLP."""
    registers: int = 0
    """Tokens before the patches: class token and registers."""
    layer_scale: bool = False


@dataclass(frozen=True)
class LlamaConfig:
    """The language backbone."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads


DINOV2_LARGE = TowerConfig(width=1024, depth=24, num_heads=16, hidden=4096, registers=5, layer_scale=True)
SIGLIP_SO400M = TowerConfig(width=1152, depth=27, num_heads=16, hidden=4304)
LLAMA_7B = LlamaConfig(width=4096, depth=32, mlp_dim=11_008, num_heads=32, num_kv_heads=32, vocab_size=32_064)


@dataclass(frozen=True)
class OFTConfig:
    """OpenVLA-OFT (Kim et al. 2025) with L1 regression; the defaults are the published sizes for LIBERO."""

    dino: TowerConfig = field(default_factory=lambda: DINOV2_LARGE)
    siglip: TowerConfig = field(default_factory=lambda: SIGLIP_SO400M)
    llm: LlamaConfig = field(default_factory=lambda: LLAMA_7B)
    image_size: int = 224
    patch_size: int = 14
    views: tuple[str, ...] = ("base_0_rgb", "left_wrist_0_rgb")
    """The cameras in the order of their tokens: the agent's view, then the wrist's."""
    action_horizon: int = 8
    action_dim: int = 7
    state_dim: int = 8
    dino_mean: tuple[float, float, float] = (0.484375, 0.455078125, 0.40625)
    """Of the DINO tower's input; the published `tvf_normalize_params`, ImageNet's constants rounded to bfloat16."""
    dino_std: tuple[float, float, float] = (0.228515625, 0.2236328125, 0.224609375)
    action_rows: ActionRows = "trained"
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise FoveateError(f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
        for name, width, heads in (
            ("dino", self.dino.width, self.dino.num_heads),
            ("siglip", self.siglip.width, self.siglip.num_heads),
            ("llm", self.llm.width, self.llm.num_heads),
        ):
            if heads < 1 or width % heads:
                raise FoveateError(f"{name}: width {width} does not divide by {heads} heads")

    @property
    def grid(self) -> tuple[int, int]:
        side = self.image_size // self.patch_size
        return side, side

    @property
    def placeholders(self) -> int:
        """Action tokens of the sequence: one for every number of the chunk."""
        return self.action_horizon * self.action_dim

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec(
            views=self.views,
            grids=(self.grid,) * len(self.views),
            image_size=self.image_size,
            action_horizon=self.action_horizon,
            action_dim=self.action_dim,
            state_dim=self.state_dim,
            noise_shape=None,
            depth=self.llm.depth,
            heads=self.llm.num_heads,
            num_steps=None,
            kv_width=2 * self.llm.num_kv_heads * self.llm.head_dim,
            crop=CROP,
        )
