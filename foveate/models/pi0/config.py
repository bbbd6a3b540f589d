"""Sizes of π0 and π0.5."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, get_args

from foveate.errors import FoveateError, unknown
from foveate.models.base import ModelSpec
from foveate.util.checks import of_type, one_of, shown, whole

_Dtype = Literal["float32", "bfloat16"]
_TimeGrid = Literal["openpi", "exact"]
MAX_PATCHES = 65_536
"""Patches of one view, at most."""


@dataclass(frozen=True)
class GemmaConfig:
    """One Gemma stack: the language backbone or the action expert."""

    width: int
    """Size of a token's embedding."""
    depth: int
    """Number of layers."""
    mlp_dim: int
    """Hidden units of each layer's MLP."""
    num_heads: int
    """Query heads of each layer's attention."""
    num_kv_heads: int
    """Key and value heads, each shared by equally many query heads."""
    head_dim: int
    """Size of a head's queries, keys and values."""

    def __post_init__(self) -> None:
        # Far beyond any published model: a damaged file must not make anything be built that never ends.
        limits = {"width": 65_536, "depth": 512, "mlp_dim": 1_048_576, "num_heads": 512, "head_dim": 4096}
        for name, limit in {**limits, "num_kv_heads": 512}.items():
            whole(name, getattr(self, name), 1, limit)
        if self.num_heads % self.num_kv_heads:
            raise FoveateError(f"num_heads {self.num_heads} is no multiple of num_kv_heads {self.num_kv_heads}")
        if self.head_dim % 2:
            raise FoveateError(f"head_dim {self.head_dim} is odd; rotary positions turn its numbers in pairs")


@dataclass(frozen=True)
class VisionConfig:
    """The SigLIP tower. Field names are those of its published configuration."""

    hidden_size: int
    """Size of a patch's embedding in the tower."""
    num_hidden_layers: int
    """Number of layers."""
    num_attention_heads: int
    """Attention heads of each layer."""
    intermediate_size: int
    """Hidden units of each layer's MLP."""
    patch_size: int
    """Side of a patch, in pixels."""
    image_size: int
    """Side of the square image, in pixels; a multiple of the patch size."""
    projection_dim: int
    """Size that patches are projected to: the backbone's width."""

    def __post_init__(self) -> None:
        limits = {"hidden_size": 65_536, "num_hidden_layers": 512, "num_attention_heads": 512}
        limits |= {"intermediate_size": 1_048_576, "patch_size": 1024, "image_size": 16_384, "projection_dim": 65_536}
        for name, limit in limits.items():
            whole(f"vision.{name}", getattr(self, name), 1, limit)
        if self.image_size % self.patch_size:
            raise FoveateError(f"vision.image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
        if self.hidden_size % self.num_attention_heads:
            heads = self.num_attention_heads
            raise FoveateError(f"vision.hidden_size {self.hidden_size} is no multiple of num_attention_heads {heads}")
        if self.grid[0] * self.grid[1] > MAX_PATCHES:
            raise FoveateError(f"vision: {self.grid[0]} x {self.grid[1]} patches, expected at most {MAX_PATCHES:,}")

    @property
    def grid(self) -> tuple[int, int]:
        side = self.image_size // self.patch_size
        return side, side


GEMMA_2B = GemmaConfig(width=2048, depth=18, mlp_dim=16_384, num_heads=8, num_kv_heads=1, head_dim=256)
GEMMA_300M = GemmaConfig(width=1024, depth=18, mlp_dim=4096, num_heads=8, num_kv_heads=1, head_dim=256)
SIGLIP_SO400M = VisionConfig(
    hidden_size=1152,
    num_hidden_layers=27,
    num_attention_heads=16,
    intermediate_size=4304,
    patch_size=14,
    image_size=224,
    projection_dim=2048,
)


@dataclass(frozen=True)
class Pi0Config:
    """π0 (`pi05=False`) or π0.5 (`pi05=True`); the defaults are the published sizes."""

    pi05: bool = True
    """Whether the model is π0.5, which reads the state as text and conditions the expert's norms on time."""
    dtype: _Dtype = "float32"
    """Number format of the weights; `bfloat16` leaves patch embedding, Gemma norms and action head in float32."""
    action_dim: int = 32
    """Numbers per action; a robot with fewer leaves the rest unused."""
    action_horizon: int = 50
    """Actions per chunk."""
    max_token_len: int = 200
    """Text tokens that the prompt is padded to; a longer prompt is cut off."""
    vocab_size: int = 257_152
    """Entries of the text vocabulary."""
    llm: GemmaConfig = field(default_factory=lambda: GEMMA_2B)
    expert: GemmaConfig = field(default_factory=lambda: GEMMA_300M)
    vision: VisionConfig = field(default_factory=lambda: SIGLIP_SO400M)
    views: tuple[str, ...] = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
    """Names of the cameras, in the order of their tokens."""
    num_steps: int = 10
    """Euler steps in which actions are denoised."""
    time_grid: _TimeGrid = "openpi"
    """Times of the Euler steps: `openpi` sums them up in float32 as openpi does, `exact` is 1 - k / num_steps."""
    times: tuple[float, ...] | None = None
    """Times of the Euler steps themselves, falling from at most 1 to above 0; null: as `time_grid` says."""
    query_projection: bool = False
    """Whether a linear map from the expert's width to the backbone's lets a pruner ask with actions."""
    max_delay: int = 0
    """Actions at a chunk's beginning that the model was trained to be given, at most (real-time chunking); 0: none."""

    def __post_init__(self) -> None:
        limits = {"action_dim": 4096, "action_horizon": 4096, "max_token_len": 65_536, "vocab_size": 16_777_216}
        for name, limit in {**limits, "num_steps": 1000}.items():
            whole(name, getattr(self, name), 1, limit)
        whole("max_delay", self.max_delay, 0, self.action_horizon - 1)
        of_type("pi05", self.pi05, bool)
        of_type("query_projection", self.query_projection, bool)
        if self.times is not None:
            falling = all(a > b for a, b in pairwise((*self.times, 0.0)))
            if not self.times or not falling or self.times[0] > 1:
                raise FoveateError(
                    f"denoising times: expected to fall from at most 1 to above 0, got {shown(self.times)}"
                )
            if len(self.times) != self.num_steps:
                raise FoveateError(
                    f"num_steps {self.num_steps} and {len(self.times)} denoising times; give one of them"
                )
        one_of("dtype", self.dtype, get_args(_Dtype))
        one_of("time_grid", self.time_grid, get_args(_TimeGrid))
        if not 1 <= len(self.views) <= 64 or len(set(self.views)) < len(self.views):
            raise FoveateError(f"views: expected 1 to 64 different names, got {shown(self.views)}")
        if self.vision.projection_dim != self.llm.width:
            raise FoveateError(
                f"vision.projection_dim {self.vision.projection_dim} differs from llm.width {self.llm.width}"
            )
        for name in ("depth", "num_heads", "num_kv_heads", "head_dim"):
            if getattr(self.llm, name) != getattr(self.expert, name):
                raise FoveateError(
                    f"llm.{name} {getattr(self.llm, name)} differs from expert.{name} {getattr(self.expert, name)}: "
                    "the expert attends to the backbone's keys layer by layer, so both need the same"
                )

    @property
    def spec(self) -> ModelSpec:
        """What the rooms around the model may know of it."""
        return ModelSpec(
            views=self.views,
            grids=(self.vision.grid,) * len(self.views),
            image_size=self.vision.image_size,
            action_horizon=self.action_horizon,
            action_dim=self.action_dim,
            state_dim=self.action_dim,
            noise_shape=(self.action_horizon, self.action_dim),
            depth=self.llm.depth,
            heads=self.llm.num_heads,
            num_steps=self.num_steps,
            kv_width=2 * self.llm.num_kv_heads * self.llm.head_dim,
            max_delay=self.max_delay,
        )

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "views": list(self.views)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Pi0Config:
        """The inverse of `to_dict`; absent keys take their defaults, unknown ones are an error."""
        values = dict(of_type("model", values, dict))
        known = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise unknown("model config key", key, known)
        for key, part in (("llm", GemmaConfig), ("expert", GemmaConfig), ("vision", VisionConfig)):
            if key in values:
                try:
                    values[key] = part(**of_type(key, values[key], dict))
                except (TypeError, FoveateError) as error:
                    raise FoveateError(f"model config {key!r}: {error}") from None
        if "views" in values:
            views = of_type("views", values["views"], list, tuple)
            values["views"] = tuple(of_type("a name in views", view, str) for view in views)
        return cls(**values)
