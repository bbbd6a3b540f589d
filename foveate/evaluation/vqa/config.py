"""The keys of a value-of-vision experiment: `model.* policy.* vision_budget.* eval.* training.* data.*`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from foveate.errors import FoveateError
from foveate.models.vlm.budget import VisionBudget
from foveate.util.pictures import HARD_LIMIT, MAX_PIXELS
from foveate.vision_value.config import HeadConfig, PruningMode, TrainingConfig

if TYPE_CHECKING:
    from foveate.models.vlm.decoding import Decoding


@dataclass(frozen=True)
class ModelConfig:
    """Which vision-language model answers."""

    path: str = "tiny_qwen3vl"
    """Checkpoint folder, hub name, or the name of a model that ships with foveate."""
    device: str = "cpu"
    """Torch device: cpu, cuda, cuda:1."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the model's weights."""
    lora: str | None = None
    """LoRA adapters (peft) on the language layers: a saved folder; an empty string: new ones, for stage 1."""


@dataclass(frozen=True)
class DataConfig:
    """Which questions."""

    train_jsonl: str | None = None
    """Questions that the head is trained on: a JSONL file, or the name of a data set."""
    eval_jsonl: str | None = None
    """Questions that are evaluated where `--dataset_config` names none."""
    prompt_template: str | None = None
    """The prompt, with the fields {image} {hint} {question} {choices} {instruction}; null: the model's own."""
    root: str | None = None
    """Folder with the files of the published sets; null: the hub."""
    split: str | None = None
    """Split to evaluate; null: each set's usual one (MMBench: dev, whose answers are public)."""
    train_split: str = "train"
    """Split to train on, where `train_jsonl` names a data set."""
    max_pixels: int = MAX_PIXELS
    """Most pixels of a question's picture; a larger one is marked as broken before it is decoded."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_pixels <= HARD_LIMIT:
            raise FoveateError(f"data.max_pixels: expected 1 to {HARD_LIMIT:,} pixels, got {self.max_pixels:,}")


@dataclass(frozen=True)
class EvalConfig:
    """How answers are made and kept."""

    max_new_tokens: int = 16
    """Longest answer, in tokens."""
    num_beams: int = 1
    """Number of beams in beam search; 1 is greedy decoding, or sampling."""
    do_sample: bool = False
    """Sample the tokens instead of taking the likeliest; seeded per question by `training.seed`."""
    temperature: float = 1.0
    """Temperature of sampling, above 0; counts with `do_sample` alone, without it decoding is greedy."""
    batch_size: int = 32
    """Questions per forward pass; alike in length and resolution, so that little is padded."""
    cache_reuse: bool = True
    """Go on from the text-first pass's KV cache where the prompt order allows it; answers are the same."""
    profile: bool = False
    """Really execute the chosen path, question by question, for latency and memory."""
    profile_samples: int = 50
    """Number of questions, spread over the set, that a profiling run executes per row; the first ones warm up."""
    path_samples: int = 8
    """Number of questions, spread over the set, on which FLOPs and milliseconds of each pass are measured; 0: none."""
    cache_dir: str | None = None
    """Folder of the answers; null: one under outputs/vqa_cache, named by model, prompt, decoding and budget."""
    ddp_checkpoint_path: str | None = None
    """A `checkpoint-*.pt` of a trained head, as one more beside those of `--checkpoint`."""
    workers: Literal["local", "ray"] = "local"
    """`ray`: spread the passes over a Ray cluster; under `torchrun` they are spread over its processes."""
    ray_workers: int = 2
    """Workers on a Ray cluster without GPUs; with GPUs there is one for each."""
    bootstrap: int = 1000
    """Number of bootstrap resamples behind each 95 % interval."""

    def __post_init__(self) -> None:
        for key in ("batch_size", "profile_samples", "bootstrap", "ray_workers"):
            if getattr(self, key) < 1:
                raise FoveateError(f"eval.{key}: expected at least 1, got {getattr(self, key)}")
        if self.path_samples < 0:
            raise FoveateError(f"eval.path_samples: expected at least 0, got {self.path_samples}")
        if self.max_new_tokens < 1 or self.num_beams < 1:
            raise FoveateError(
                f"eval: max_new_tokens and num_beams start at 1, got {self.max_new_tokens} and {self.num_beams}"
            )
        if self.do_sample and (self.num_beams > 1 or not self.temperature > 0):
            raise FoveateError(
                f"eval.do_sample: true needs num_beams: 1 and a temperature above 0, got {self.num_beams} and "
                f"{self.temperature}"
            )

    def decoding(self, seed: int) -> Decoding:
        """The part of it that changes answers."""
        from foveate.models.vlm.decoding import Decoding

        return Decoding(self.max_new_tokens, self.num_beams, self.do_sample, self.temperature, seed)


@dataclass(frozen=True)
class VqaConfig:
    """A value-of-vision experiment: every row chooses among the same three answers to each question."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    policy: HeadConfig = field(default_factory=HeadConfig)
    vision_budget: VisionBudget | None = None
    """What COARSE and FULL may cost; null: as the model's folder says."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    dataset_config: str | None = None
    """Data sets to evaluate, separated by commas: mmbench, mmmu, textvqa, easy_vqa, mixed, or a JSONL file."""
    output_dir: str | None = None
    """Folder of the results; null: outputs/vqa, and for training `training.output_dir`."""
    checkpoint: tuple[str, ...] = ()
    """Trained heads: output folders of `foveate train value`, or `checkpoint-*.pt`."""
    max_samples: int | None = None
    """Largest number of questions of each data set; null: all."""
    max_train_samples: int | None = None
    """Largest number of training questions; null: all."""
    pareto: tuple[float, ...] = ()
    """Values of lambda, one row of the learned head for each; empty: policy.lambda_cost alone."""
    thresholds: tuple[float, ...] = ()
    """Thresholds of the uncertainty rule (entropy in nats, or margin in [0, 1]), one row for each."""
    uncertainty: Literal["entropy", "margin"] = "entropy"
    """Quantity that `--thresholds` are compared with."""
    vision: Literal["coarse", "full"] = "full"
    """Level at which the uncertainty rule looks."""
    ratios: tuple[float, ...] = ()
    """Shares of vision tokens to keep: one more pass, and one row, for each below 1."""
    mode: PruningMode = "stride"
    """Which tokens `--ratios` keep; random and downsample are in the table always."""
    language: Literal["en", "zh"] = "en"
    """Language of the plots' labels."""

    def __post_init__(self) -> None:
        for ratio in self.ratios:
            if not 0 < ratio <= 1:
                raise FoveateError(f"--ratios: expected shares in (0, 1], got {ratio}")
        for value in self.pareto:
            if not value >= 0:
                raise FoveateError(f"--pareto: expected values of lambda of at least 0, got {value}")
        if self.max_samples is not None and self.max_samples < 1:
            raise FoveateError(f"--max_samples: expected at least 1, got {self.max_samples}")

    @property
    def folder(self) -> Path:
        """Where results go."""
        return Path(self.output_dir or "outputs/vqa")
