"""How a policy is run: a backend for each stage, and presets as names for combinations.

--engine compiled                                         # a preset
--engine compiled --engine.vision eager                   # another backend for one stage
--engine compiled --engine.buckets 288,320,560
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from foveate.engine.buckets import check_lengths
from foveate.engine.reuse import PrefixReuse
from foveate.errors import FoveateError
from foveate.util.checks import whole

STAGES = ("vision", "prefill", "denoise")
FASTEST = "fastest"
"""Instead of a backend: the one that suits the policy's device."""
Precision = Literal["bf16", "fp8", "fp8_reference", "int8"]
COMPILE, COMPILE_PRUNED = "OPENPI_TORCH_COMPILE", "OPENPI_TORCH_COMPILE_PRUNING"
"""Environment variables of openpi's pruning: 1 means compiled and 0 eager; 0 keeps pruned queries eager."""


@dataclass(frozen=True, kw_only=True)
class Eager:
    """PyTorch as written; any shape, any device."""

    vision: str = "eager"
    """Backend of the vision tower: eager, compiled, openvino, cuda_graph, tensorrt."""
    prefill: str = "eager"
    """Backend of the language backbone over the prefix (kv_cache): eager, compiled, openvino,
    cuda_graph."""
    denoise: str = "eager"
    """Backend of the denoising steps: eager, compiled, openvino, cuda_graph."""
    prefill_precision: Precision | None = None
    """Number format of the backbone's matrices, where it is another than the policy's dtype."""
    vision_precision: Literal["fp16"] | None = None
    """Number format of a tensorrt vision tower, where it is another than the policy's dtype."""
    buckets: tuple[int, ...] | None = None
    """Prefix lengths that a compiled prefill is prepared for; null: the policy folder's for this pruning, or spread."""
    max_buckets: int = 8
    """Prefix lengths held at once; the least recently used one goes."""
    max_bucket_mb: int = 1024
    """Memory that all of them may hold, in MB."""
    compile_pruned: bool = True
    """Whether a pruned query may run compiled."""
    prefix_cache: PrefixReuse = field(default_factory=PrefixReuse)
    """Reuse of an earlier control step's prefix."""

    def __post_init__(self) -> None:
        if self.buckets is not None:
            check_lengths(self.buckets, "engine.buckets")
        whole("engine.max_buckets", self.max_buckets, 1, 64)
        whole("engine.max_bucket_mb", self.max_bucket_mb, 1, 1_000_000)
        if self.buckets is not None and len(self.buckets) > self.max_buckets:
            raise FoveateError(
                f"engine.buckets: {len(self.buckets)} lengths, and engine.max_buckets allows {self.max_buckets}; give "
                "fewer, or raise it"
            )

    @property
    def backends(self) -> dict[str, str]:
        """Stage -> the name of its backend."""
        return {stage: getattr(self, stage) for stage in STAGES}

    @property
    def exact(self) -> bool:
        """Whether it is the reference itself: eager in every stage, in the policy's own number format."""
        return set(self.backends.values()) == {"eager"} and not self.rounds

    @property
    def rounds(self) -> bool:
        """Whether a stage computes in fewer digits than the policy's own number format has."""
        return self.prefill_precision is not None or self.vision_precision is not None

    @property
    def rounds_to_float8(self) -> bool:
        """Whether the prefill needs a calibration."""
        return self.prefill_precision in ("fp8", "fp8_reference")

    @property
    def label(self) -> str:
        """What tells it from others in a sentence: `compiled`, or its stages."""
        names = list(dict.fromkeys(self.backends.values()))
        text = names[0] if len(names) == 1 else ", ".join(f"{stage} {name}" for stage, name in self.backends.items())
        formats = {"vision": self.vision_precision, "prefill": self.prefill_precision}
        return ", ".join([text, *(f"{stage} in {name}" for stage, name in formats.items() if name)])


@dataclass(frozen=True, kw_only=True)
class Compiled(Eager):
    """torch.compile in every stage, one callable for each prefix length."""

    vision: str = "compiled"
    prefill: str = "compiled"
    denoise: str = "compiled"


@dataclass(frozen=True, kw_only=True)
class Openvino(Eager):
    """OpenVINO in every stage, one model for each prefix length; a CPU, float32."""

    vision: str = "openvino"
    prefill: str = "openvino"
    denoise: str = "openvino"


@dataclass(frozen=True, kw_only=True)
class Fast(Compiled):
    """The fastest exact backend of the policy's device in every stage: on a CPU `openvino` or `compiled`, on a GPU
    `cuda_graph`."""

    vision: str = FASTEST
    prefill: str = FASTEST
    denoise: str = FASTEST


EngineConfig = Eager | Compiled | Openvino | Fast
PRESETS: dict[str, type[Eager]] = {"eager": Eager, "compiled": Compiled, "openvino": Openvino, "fast": Fast}


def as_environment_says(config: Eager, environ: Mapping[str, str] = os.environ) -> Eager:
    """The engine that `OPENPI_TORCH_COMPILE` asks for; unset: the config's.

    Raises:
        FoveateError: a variable is neither 0 nor 1, or it asks for one engine and the config for another.
    """
    asked, pruned = (_switch(name, environ) for name in (COMPILE, COMPILE_PRUNED))
    if asked is False and not config.exact:
        raise FoveateError(
            f"{COMPILE}=0 asks for eager, and the options for {config.label}; unset the one or the other"
        )
    own = {f.name: getattr(config, f.name) for f in fields(Eager)}
    if pruned is False:
        own["compile_pruned"] = False
    if asked and config.exact:
        return Compiled(**{name: value for name, value in own.items() if name not in STAGES})
    return type(config)(**own)


def _switch(name: str, environ: Mapping[str, str]) -> bool | None:
    said = environ.get(name, "")
    if said not in ("", "0", "1"):
        raise FoveateError(f"{name}={said}: expected 1, 0, or unset")
    return None if not said else said == "1"
