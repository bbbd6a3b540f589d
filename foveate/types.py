"""The values that flow between the rooms of foveate.

    Observation -> Prefix -> Selection (KeepSet) -> ActionChunk (+ Trace) -> EpisodeResult

Only NumPy is imported: an environment worker without torch uses the same types. Tensors appear in
annotations alone. No logic lives here beyond validation and index arithmetic on the layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

SpanKind = Literal["image", "text", "state", "action"]
STAGES = ("vision", "prune", "prefill", "denoise", "total")
"""Of an inference, each timed; `prefill` is what the users' reports call `kv_cache`."""


@dataclass(frozen=True)
class Observation:
    """What a robot perceives at one instant; on the host, unbatched."""

    images: Mapping[str, np.ndarray]
    """View name -> uint8 [H, W, 3], RGB, upright."""
    state: np.ndarray
    """float32 [S], in the robot's own units."""
    prompt: str
    """The instruction, in plain words."""

    def __post_init__(self) -> None:
        for view, image in self.images.items():
            if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
                raise ValueError(f"view {view!r}: expected a uint8 array [H, W, 3] (RGB), got {got}")
        if not isinstance(self.prompt, str):
            raise ValueError(f"prompt: expected text, got {type(self.prompt).__name__}")
        if self.state is None:
            raise ValueError("state: expected a vector [S], got None; a policy needs the robot's state")
        state = np.asarray(self.state, dtype=np.float32)
        if state.ndim != 1:
            raise ValueError(f"state: expected a vector [S], got shape {state.shape}")
        if not np.isfinite(state).all():
            raise ValueError(f"state: expected finite numbers, got {state.tolist()}")
        object.__setattr__(self, "state", state)


@dataclass(frozen=True)
class Span:
    """A run of tokens of one kind in the full (unpruned, padded) sequence."""

    name: str
    """The view's name for an image span; `text`, `state` or `action` otherwise."""
    kind: SpanKind
    start: int
    stop: int
    """Half open: tokens `start .. stop - 1`."""
    grid: tuple[int, int] | None = None
    """Patch rows and columns of an image span."""

    def __post_init__(self) -> None:
        if self.grid is not None and self.grid[0] * self.grid[1] != len(self):
            raise ValueError(f"span {self.name!r}: grid {self.grid} does not hold {len(self)} tokens")

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class TokenLayout:
    """Where each token comes from. Made once, where the tokens are concatenated, and carried along."""

    spans: tuple[Span, ...]

    def __post_init__(self) -> None:
        position = 0
        for span in self.spans:
            if span.start != position:
                raise ValueError(
                    f"span {span.name!r} starts at {span.start}, expected {position}: spans must be adjacent"
                )
            position = span.stop

    def __len__(self) -> int:
        return self.spans[-1].stop if self.spans else 0

    @property
    def images(self) -> tuple[Span, ...]:
        return tuple(s for s in self.spans if s.kind == "image")

    @property
    def num_patches(self) -> int:
        return sum(len(s) for s in self.images)

    @property
    def patch_index(self) -> np.ndarray:
        """int64 [P]: token index of every patch, views in layout order."""
        parts = [np.arange(s.start, s.stop) for s in self.images]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    @property
    def task_index(self) -> np.ndarray:
        """int64 [n]: indices of the tokens behind the last patch: text, and what else a family puts there."""
        return np.arange(self.images[-1].stop if self.images else 0, len(self))

    @property
    def view_slices(self) -> dict[str, slice]:
        """View name -> its slice of a patch axis [P]."""
        slices, start = {}, 0
        for span in self.images:
            slices[span.name] = slice(start, start + len(span))
            start += len(span)
        return slices

    def tokens_of(self, *kinds: SpanKind) -> np.ndarray:
        """int64 [n]: token indices of all spans of these kinds."""
        parts = [np.arange(s.start, s.stop) for s in self.spans if s.kind in kinds]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)


@dataclass(frozen=True)
class Prefix:
    """Embedded image and text tokens, before the backbone; on the device.

    A packed prefix holds fewer tokens than its layout: `source` tells which.
    """

    embeds: Float[Tensor, "B N D"]
    mask: Bool[Tensor, "B N"]
    """True where a token is real (not padding, not of an absent camera)."""
    position_ids: Int[Tensor, "B N"]
    layout: TokenLayout
    """Of the full sequence, before any packing or pruning."""
    source: Int[Tensor, "B N"] | None = None
    """Original token index of each slot, -1 in padding; None: slot i is token i."""
    full: bool = False
    """True when it is known, without asking the device, that `mask` holds no False."""
    row_seeds: Int[Tensor, "B"] | None = None
    """What a random method draws each row by, so that batching does not matter; None: its own stream."""
    at_most: np.ndarray | None = None
    """int64 [B, spans]: real tokens of each span of the layout, at most, as the host knows without asking the device;
    None: only the device knows."""


@dataclass(frozen=True)
class KeepSet:
    """Which patches survive pruning, in original coordinates (the layout's patch axis)."""

    keep_mask: Bool[Tensor, "B P"]
    layout: TokenLayout
    scores: Float[Tensor, "B P"] | None = None
    """For each patch the largest score that any query gives it; None: the method does not score."""
    valid: Bool[Tensor, "B P"] | None = None
    """Patches of cameras that are there; None: all."""
    score_stats: Mapping[str, Float[Tensor, "B Q"]] | None = None
    """`max_per_query`, `entropy_per_query` (nats), per query row; light evidence for the trace."""
    raw_score: Float[Tensor, "B Q P"] | None = None
    """The whole score matrix, kept only on request."""
    coordinates: Float[Tensor, "B P 2"] | None = None
    """Row and column, in patches, where each kept token lies in its view, of a method that resamples (patch centres
    at 0.5, 1.5 ...); None: at its own patch."""
    sources: Int[Tensor, "B P"] | None = None
    """For each patch the kept patch that took it in, -1 for none, of a method that merges; None: nothing is merged."""

    history: Mapping[str, Tensor] | None = None
    """[B, ...] each: what a method with a history went by, for the trace."""

    def indices(self) -> list[Int[Tensor, "K"]]:
        """Per sample, the kept patch indices, ascending."""
        return [row.nonzero().squeeze(-1) for row in self.keep_mask]

    def counts(self) -> Int[Tensor, "B"]:
        return self.keep_mask.sum(-1)

    def counts_per_view(self) -> dict[str, Int[Tensor, "B"]]:
        return {view: self.keep_mask[:, s].sum(-1) for view, s in self.layout.view_slices.items()}


@dataclass(frozen=True)
class Selection:
    """What a pruner chose of a prefix, slot by slot, at the prefix's full length; the engine packs it."""

    keep: KeepSet
    mask: Bool[Tensor, "B N"]
    """Tokens that stay; False is dropped."""
    embeds: Float[Tensor, "B N D"] | None = None
    """Tokens that the method changed (pooled, merged, with a gradient of their own); None: the prefix's."""
    position_ids: Int[Tensor, "B N"] | None = None
    """None: the prefix's."""
    keeps_length: bool = False
    """Training alone: what is dropped is to be masked and not taken out, so that shapes and gradients stay."""
    at_most: np.ndarray | None = None
    """As a `Prefix` has it, where the budget alone tells how many stay."""

    def apply(self, prefix: Prefix) -> Prefix:
        """The prefix with what is dropped masked out, not packed yet."""
        return replace(
            prefix,
            mask=self.mask,
            full=False,
            at_most=self.at_most,
            embeds=prefix.embeds if self.embeds is None else self.embeds,
            position_ids=prefix.position_ids if self.position_ids is None else self.position_ids,
        )


VisionLevel = Literal["NO", "COARSE", "FULL"]
LEVELS: tuple[VisionLevel, ...] = get_args(VisionLevel)
"""How closely to look, in the order of every array of three: at a question's picture, or at a robot's view."""
NO, COARSE, FULL = range(3)


@dataclass(frozen=True)
class VisionDecision:
    """Whether, and how closely, to look at each view."""

    level: Mapping[str, VisionLevel]
    """View -> level, of the views that are there."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """View -> what the decision was made by, where it was by a number."""
    token_budget: int | None = None


@dataclass
class Trace:
    """The evidence of one inference, on the host; what `tracing.store` writes."""

    layout: TokenLayout
    keep: dict[str, np.ndarray] | None = None
    """`keep_mask` bool [P]; of a method that scores: `router_scores` float32 [P], `max_per_query`,
    `entropy_per_query` and `raw_score`; of one that resamples: `coordinates` float32 [P, 2], as in a `KeepSet`; of one
    with a history `history_*`."""
    attn: dict[int, np.ndarray] = field(default_factory=dict)
    """Layer -> float32 [heads, P]: mean over valid task rows, original patch coordinates, 0 where dropped."""
    seq_lens: dict[str, int] = field(default_factory=dict)
    """`pre_seq_len, post_seq_len, padded_seq_len, pre_task_len, post_task_len`, in tokens of this sample."""
    layer_tokens: tuple[int, ...] = ()
    """Prefix tokens that each backbone layer saw, 0 for one that did not run; empty: `post_seq_len` in all."""
    timings_ms: dict[str, float] = field(default_factory=dict)
    """Stage -> milliseconds; stages are vision, prune, prefill, denoise, total."""
    decision: VisionDecision | None = None
    model_images: dict[str, np.ndarray] = field(default_factory=dict)
    """View -> uint8 [h, w, 3]: the picture as the model saw it (resized and padded)."""


@dataclass(frozen=True)
class LeftOver:
    """What a robot has left of the chunk before when it asks for the next one, for real-time chunking."""

    actions: np.ndarray
    """float32 [n, action_dim], in the environment's units: `prev_chunk_left_over`."""
    inference_delay: int = 0
    """Of these are executed before the new chunk is there."""
    execution_horizon: int | None = None
    """So many of these guide the new chunk, at most; None: all."""


@dataclass
class ActionChunk:
    """What a policy answers."""

    actions: np.ndarray
    """float32 [horizon, action_dim], in the environment's units."""
    timings_ms: dict[str, float] = field(default_factory=dict)
    trace: Trace | None = None


Phase = Literal["prefix", "suffix"]


@dataclass(frozen=True)
class AttentionRequest:
    """Which attention rows to compute beside an inference."""

    layers: tuple[int, ...]
    """Backbone layers; negative numbers count from the end."""
    phases: tuple[Phase, ...] = ("prefix",)
    """`prefix`: text -> image in the prefill; `suffix`: action -> image while denoising."""
    heads: tuple[int, ...] | None = None
    """Heads of each layer; None: all."""
    steps: Literal["mean", "each"] = "mean"
    """Denoising steps of the suffix: averaged, or one map each."""
    tokens: bool = False
    """True: one prefix map per text token, instead of the mean over the valid ones."""
    rows: Literal["text", "task"] = "text"
    """Whose rows the prefix maps are the mean of: `text`, the words; `task`, all that stands behind the pictures, as
    LightVLA's traces count it. They differ where state and action placeholders stand in the prefix (OpenVLA-OFT)."""


@dataclass
class AttentionMaps:
    """Where one phase of one inference looked; on the host."""

    phase: Phase
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    views: tuple[str, ...]
    maps: np.ndarray
    """float16 [layer, head, view, grid_h, grid_w]: attention mass per patch, 0 where dropped or absent. With
    `steps="each"` or `tokens=True` one more axis leads: [step or token, layer, ...]."""
    valid: np.ndarray
    """bool [view, grid_h, grid_w]: patches that were there and kept."""
    tokens: tuple[str, ...] = ()
    """The text pieces of the leading axis, where maps are per token."""


@dataclass(frozen=True)
class VQASample:
    """One question about one image."""

    id: str
    dataset: str
    question: str
    answers: tuple[str, ...]
    """Accepted answers (TextVQA: all ten); of a multiple choice the letter. Empty: not public."""
    image: bytes | str | None
    """Encoded picture, or the path of one; None: there is none."""
    choices: tuple[str, ...] = ()
    """Texts of the options A, B, C, ...; empty: an open question."""
    hint: str = ""
    """Context that the benchmark gives beside the question."""
    category: str = ""
    split: str = ""


EpisodeStatus = Literal["success", "failure", "crash"]


@dataclass
class EpisodeResult:
    """One line of `episodes.jsonl`: flat scalars alone."""

    task: str
    episode: int
    seed: int
    variant: str
    status: EpisodeStatus
    steps: int
    queries: int
    """Policy inferences."""
    instruction: str = ""
    kept_mean: float | None = None
    """Visual tokens kept per inference, mean over the episode."""
    patches: int | None = None
    """Visual tokens before pruning."""
    latency_ms_p50: float | None = None
    latency_ms_p95: float | None = None
    stages_ms_p50: dict[str, float] = field(default_factory=dict)
    gflops_mean: float | None = None
    wall_s: float = 0.0
    error: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
