"""The configuration of `foveate train policy`, part by part; each part belongs to the file that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from foveate.errors import FoveateError
from foveate.util.checks import number, one_of, whole


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule; the defaults are openpi's."""

    lr: float = 2.5e-5
    """Peak learning rate."""
    final_lr: float = 2.5e-6
    """Learning rate where the cosine ends."""
    warmup_steps: int = 1000
    """Optimizer steps over which the learning rate rises linearly to `lr`."""
    decay_steps: int | None = None
    """Step at which the cosine ends, the warm-up counted; it may lie beyond the run. Null: the run's last step."""
    decay_at: int | None = None
    """Step from which on the learning rate is `final_lr`, having been `lr` until then; null: a cosine in between."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay per step of AdamW's first and second moment."""
    eps: float = 1e-8
    """AdamW's epsilon, added to the root of the second moment."""
    weight_decay: float = 1e-10
    """Weight decay of AdamW, on matrices alone; norms, biases and vectors are not decayed."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global L2 norm where theirs is larger."""
    ema_decay: float = 0.99
    """Decay per step of the moving average of the weights; the averaged weights are exported."""


@dataclass(frozen=True)
class LoopConfig:
    """Length of the training, size of its batches, device, log and checkpoints."""

    steps: int = 30_000
    """Optimizer steps of the whole run."""
    batch_size: int = 32
    """Samples per optimizer step, over all processes and micro-batches."""
    accumulate: int = 1
    """Micro-batches that each process divides its share of a batch into; more of them need less memory."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of forward and backward pass; with `bfloat16` (autocast) weights and optimizer stay float32."""
    device: str = "auto"
    """Torch device, as `cpu` or `cuda:1`; `auto` takes CUDA where it is there."""
    compile: bool = False
    """Compile the objective with torch.compile."""
    threads: int = 0
    """CPU threads that torch computes with; 0: as many as it takes by itself."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl and TensorBoard points."""
    save_every: int = 1000
    """Steps between checkpoints; the last step always writes one."""
    keep_checkpoints: int = 2
    """Newest checkpoints that stay on disk; older ones are deleted."""
    keep_period: int | None = None
    """Checkpoints at multiples of so many steps stay too; null: none."""
    wandb: bool = False
    """Log to Weights & Biases too."""
    wandb_project: str = "foveate"
    """Name of the project there."""

    def __post_init__(self) -> None:
        names = ("steps", "batch_size", "accumulate", "log_every", "save_every", "keep_checkpoints", "keep_period")
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise FoveateError(f"loop.{name} should be at least 1, got {value}")


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation of checkpoints in a simulator during the training; `foveate eval sim` has more options."""

    every: int | None = None
    """Steps between evaluations, a multiple of loop.save_every; null: none."""
    env: str = "metaworld"
    """`metaworld`, `libero`, or one's own as `module:Class`."""
    task_suite_name: str = "foveate"
    """A suite or tasks separated by commas."""
    num_trials_per_task: int = 10
    """Episodes per task."""
    num_workers: int = 2
    """Simulators that run in parallel."""

    def __post_init__(self) -> None:
        for name in ("every", "num_trials_per_task", "num_workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise FoveateError(f"eval.{name} should be at least 1, got {value}")


RESUME_FREE = (
    "precision",
    "device",
    "compile",
    "threads",
    "log_every",
    "save_every",
    "keep_checkpoints",
    "keep_period",
    "wandb",
    "wandb_project",
)
"""Fields of `LoopConfig` that may differ between a run and its resumption."""


@dataclass(frozen=True)
class DataConfig:
    """Demonstrations that are trained on, and their augmentation."""

    path: tuple[str, ...] = ()
    """Folders of demonstrations, as `foveate data metaworld-demos` writes them, or LeRobot data sets (a folder, or
    OWNER/NAME of the hub); `fake`: made-up ones, for a trial of the rest."""
    tasks: tuple[str, ...] = ()
    """Names of the environment's tasks to train on; empty: all."""
    robot: str = "metaworld"
    """Robot mapping, by name or as a YAML file; `init_from` brings its own."""
    tokenizer: str = ""
    """File of a sentencepiece model; empty: that of `init_from`, for a new model the shipped tiny policy's."""
    assets_dir: str = ""
    """Folder of norm stats, where they stand apart from the data set: assets_dir/asset_id/norm_stats.json."""
    asset_id: str = ""
    """Name of the norm stats in `assets_dir`, or in `init_from` where it holds several; the policy keeps it."""
    memory_gb: float = 4.0
    """Memory for decoded pictures of LeRobot data sets, in GB for each process of the training."""
    decode_workers: int = 2
    """Processes that decode them ahead, for each process of the training."""
    run_length: int = 16
    """Consecutive samples that are decoded together; more of them need less decoding, 1 shuffles best."""
    frame_stride: int = 1
    """Every n-th recorded frame begins a sample; action chunks always hold every step."""
    flow_samples: int = 1
    """Draws of noise and time per sample in flow matching (π0, π0.5); they share one prefix."""
    shift_px: int = 0
    """Largest random shift of an image, in pixels of the model's input; edges are repeated."""
    brightness: float = 0.0
    """Largest random offset of an image's brightness, as a share of the full range of values."""
    contrast: float = 0.0
    """Largest random relative change of an image's contrast around its mean; 0.2: between 0.8 and 1.2 times."""
    saturation: float = 0.0
    """Largest random relative change of an image's saturation."""
    hue: float = 0.0
    """Largest random turn of an image's hue, in turns of the colour circle."""
    random_crop: bool = False
    """Crop images at random where the policy sees their centre alone: OpenVLA-OFT, nine tenths of the area."""
    state_noise: float = 0.0
    """Standard deviation of Gaussian noise that is added to the normalised state."""
    blind: bool = False
    """Train on grey images alone: the control that shows what vision is worth."""

    def __post_init__(self) -> None:
        if min(self.decode_workers, self.run_length) < 1 or self.memory_gb <= 0:
            raise FoveateError(
                f"data: decode_workers and run_length start at 1 and memory_gb is above 0, got {self.decode_workers}, "
                f"{self.run_length} and {self.memory_gb}"
            )
        if self.frame_stride < 1 or self.flow_samples < 1:
            raise FoveateError(
                f"data: frame_stride and flow_samples start at 1, got {self.frame_stride} and {self.flow_samples}"
            )


@dataclass(frozen=True)
class RtcConfig:
    """Training for real-time chunking: a chunk's first actions are given, as a robot that waits executes them."""

    max_delay: int | None = None
    """Actions that are given at most, in place of noise: each flow sample draws 0 to so many. The longest inference, in
    steps of the robot, that the policy will be ready for. Null: as `init_from` was trained; 0: none."""

    def __post_init__(self) -> None:
        if self.max_delay is not None and self.max_delay < 0:
            raise FoveateError(f"rtc.max_delay: expected at least 0, got {self.max_delay}")


@dataclass(frozen=True)
class LookingConfig:
    """Random levels of looking, for each view of each sample: the policy learns to act on what `--looking` gives it."""

    coarse: float = 0.0
    """Share of the views that are looked at at half the resolution."""
    no: float = 0.0
    """Share of the views at which nobody looks."""
    no_means: Literal["reuse", "leave_out"] = "reuse"
    """A view at which nobody looks shows an earlier picture of its episode (`reuse`), or is left out."""
    max_age: int = 4
    """Pictures of the demonstration that a reused one is behind, at most; each view draws 1 to so many."""

    def __post_init__(self) -> None:
        for name in ("coarse", "no"):
            number(f"looking.{name}", getattr(self, name), 0)
        if self.coarse + self.no > 1 or self.no == 1:
            raise FoveateError(
                f"looking: shares of the views: expected at most 1 together, and no below 1, got coarse "
                f"{self.coarse:g} and no {self.no:g}"
            )
        one_of("looking.no_means", self.no_means, ("reuse", "leave_out"))
        whole("looking.max_age", self.max_age, 1, 1000)

    @property
    def on(self) -> bool:
        return self.coarse > 0 or self.no > 0


@dataclass(frozen=True)
class NoiseConfig:
    """Exploration noise on the pruner's scores, linear over the run."""

    start: float = 1.0
    """Scale of the noise at the first step."""
    end: float = 0.0
    """Scale of the noise at the last step."""

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            number(f"pruner_noise.{name}", getattr(self, name), 0)
