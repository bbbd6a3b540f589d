"""The configuration of `foveate train policy`, part by part; each part belongs to the file that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from foveate.errors import FoveateError


@dataclass(frozen=True)
class OptimConfig:
    """AdamW under a cosine schedule; the defaults are openpi's."""

    lr: float = 2.5e-5
    """Peak learning rate."""
    final_lr: float = 2.5e-6
    """Learning rate at the last step."""
    warmup_steps: int = 1000
    """Steps of linear warm-up."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the first and the second moment."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 1e-10
    """Of matrices alone; norms, biases and vectors are not decayed."""
    clip_norm: float = 1.0
    """Largest global gradient norm."""
    ema_decay: float = 0.99
    """Of the averaged weights, which are what is exported."""


@dataclass(frozen=True)
class LoopConfig:
    """How long, in what portions, on what device."""

    steps: int = 30_000
    """Optimizer steps."""
    batch_size: int = 32
    """Samples per step, over all processes and accumulated portions."""
    accumulate: int = 1
    """Portions that each process's share of a batch is computed in."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16`: autocast in forward and backward, weights and optimizer stay float32."""
    device: str = "auto"
    """`auto` takes CUDA where it is there; `cpu`, `cuda:1`."""
    compile: bool = False
    """Compile the objective with torch.compile."""
    threads: int = 0
    """CPU threads; 0: as many as torch takes by itself."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl and TensorBoard points."""
    save_every: int = 1000
    """Steps between checkpoints; the last step always writes one."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay on disk."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "log_every", "save_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise FoveateError(f"loop.{name} should be at least 1, got {getattr(self, name)}")


RESUME_FREE = ("precision", "device", "compile", "threads", "log_every", "save_every", "keep_checkpoints")
"""Fields of `LoopConfig` that may differ between a run and its resumption."""


@dataclass(frozen=True)
class DataConfig:
    """What is trained on, and how it is varied."""

    path: tuple[str, ...] = ()
    """Folders of demonstrations, as `foveate data metaworld-demos` writes them."""
    tasks: tuple[str, ...] = ()
    """Train on these of the environment's tasks alone; empty: all."""
    robot: str = "metaworld"
    """Robot mapping: a name or a YAML file. Taken from `init_from` where that is given."""
    tokenizer: str = ""
    """A sentencepiece model; empty: the shipped tiny policy's. Taken from `init_from` where that is given."""
    frame_stride: int = 1
    """Every n-th recorded picture begins a sample; action chunks always hold all steps."""
    flow_samples: int = 1
    """Noise and time draws per sample; they share one prefix."""
    shift_px: int = 0
    """Largest random shift of an image, in model pixels; edges are repeated."""
    brightness: float = 0.0
    """Largest random offset of an image, as a share of the full range."""
    contrast: float = 0.0
    """Largest random change of an image's contrast around its mean, relative."""
    state_noise: float = 0.0
    """Standard deviation of noise on the normalised state."""
    blind: bool = False
    """Train on grey images: the control that shows what vision is worth."""

    def __post_init__(self) -> None:
        if self.frame_stride < 1 or self.flow_samples < 1:
            raise FoveateError(
                f"data: frame_stride and flow_samples start at 1, got {self.frame_stride} and {self.flow_samples}"
            )


@dataclass(frozen=True)
class NoiseConfig:
    """Exploration noise on the pruner's scores, linear over the run."""

    start: float = 1.0
    """At the first step."""
    end: float = 0.0
    """At the last step."""
