"""What every family of action models shares with the rooms around it: the protocols, and exact packing.

    family, info = registry.detect(folder)
    model, processor = family.load(info, ModelOptions())
    prefix = pack(model.embed_prefix(inputs))
    actions = model.decode(model.prefill(prefix), inputs, noise, steps=10)

Models know nothing of pruning methods, engines or clocks: whoever runs one selects tokens between its stages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.errors import FoveateError
from foveate.models.common.layers import Run, as_written
from foveate.models.common.looks import Looks
from foveate.models.common.robots import RobotMapping
from foveate.types import Observation, Phase, Prefix, Selection, TokenLayout


@dataclass(frozen=True)
class ModelSpec:
    """What the rooms around a model may know of its sizes."""

    views: tuple[str, ...]
    """The cameras in the order of their tokens."""
    grids: tuple[tuple[int, int], ...]
    """Patch rows and columns of each view."""
    image_size: int
    """Side of the square pictures that the model sees, in pixels."""
    action_horizon: int
    """Actions of a chunk."""
    action_dim: int
    """Width of the model's actions; a robot's may be narrower."""
    state_dim: int
    """Width of the state that the model takes; a robot's may be narrower."""
    noise_shape: tuple[int, int] | None
    """[action_horizon, action_dim] of the noise that decoding starts from; None: the family decodes without noise."""
    depth: int
    """Layers of the backbone."""
    heads: int
    """Attention heads of each layer."""
    num_steps: int | None
    """Denoising steps that the checkpoint asks for; None: the family has none."""
    kv_width: int = 0
    """Numbers that a layer caches of each token: keys and values."""
    crop: float | None = None
    """Side of the picture's middle that the model sees, as a share of the picture's, stretched to its square; None: it
    sees the whole picture, in proportion and padded."""
    max_delay: int = 0
    """Actions at a chunk's beginning that the model was trained to be given, at most (real-time chunking)."""


@dataclass(frozen=True)
class ModelInputs:
    """One batch, normalised and on the device."""

    images: Tensor
    """float32 [B, V, 3, H, W] in [-1, 1], views in the order of `ModelSpec.views`."""
    image_masks: Tensor
    """bool [B, V]: False where a camera is absent."""
    tokens: Tensor
    """int64 [B, L]."""
    token_masks: Tensor
    """bool [B, L]."""
    state: Tensor
    """float32 [B, state_dim], normalised, zero-padded. π0 and OpenVLA-OFT read it; π0.5 has it in the prompt."""
    host_masks: tuple[Tensor, Tensor] | None = None
    """`image_masks` and `token_masks` on the host, from before they went to a device; see `on_host`."""
    looks: Looks | None = None
    """How closely each view is looked at, for a family that can choose; None: all at full resolution."""

    def to(self, device: torch.device | str) -> ModelInputs:
        moved: dict[str, Any] = {name: v.to(device) for name, v in vars(self).items() if isinstance(v, Tensor)}
        return dataclasses.replace(self, **moved, host_masks=self.on_host())

    def on_host(self) -> tuple[Tensor, Tensor]:
        """`image_masks` and `token_masks` on the host; asks the device only where nobody has kept them."""
        return (self.image_masks.cpu(), self.token_masks.cpu()) if self.host_masks is None else self.host_masks


@dataclass(frozen=True)
class PrefixCache:
    """Keys and values of the prefix, per layer [B, G, N, K]; N may shrink where tokens were dropped between layers."""

    keys_values: list[tuple[Tensor, Tensor]]
    masks: list[Tensor | None]
    """bool [B, N] of each run of layers that see the same tokens; None: no slot is padding, attention needs no mask."""
    runs: list[int]
    """Layer -> its entry of `masks`."""
    next_position: Tensor
    """int64 [B]: position id of the first token after the prefix."""
    prefix: Prefix
    """The tokens that the last layer saw."""
    last_hidden: Tensor | None = None
    """[B, N, D] after the final norm, where the family or the caller needs it."""

    def lengths(self) -> Tensor:
        """int64 [B, layers]: real tokens that each layer saw; 0 for a layer that did not run."""
        columns = []
        for (keys, _), run in zip(self.keys_values, self.runs, strict=True):
            mask = self.masks[run]
            ran = keys.shape[2] > 0
            columns.append(
                mask.sum(1) * ran if mask is not None else self.next_position.new_full((len(keys),), keys.shape[2])
            )
        return torch.stack(columns, 1)

    def repeat(self, times: int) -> PrefixCache:
        """Every sample `times` times in a row, for several flow samples per prefix."""
        if times == 1:
            return self
        return dataclasses.replace(
            self,
            keys_values=[(k.repeat_interleave(times, 0), v.repeat_interleave(times, 0)) for k, v in self.keys_values],
            masks=[None if m is None else m.repeat_interleave(times, 0) for m in self.masks],
            next_position=self.next_position.repeat_interleave(times, 0),
        )


class TowerLayer(NamedTuple):
    """The layer of a vision tower that patches come out of, for methods that go by its attention."""

    layer: nn.Module
    """Has `queries_keys(x)`, see `ViTLayer`."""
    leading: int = 0
    """Tokens before the patches."""
    class_token: bool = False
    """Whether the first of them stands for the whole picture."""


LayerPruner = Callable[[Prefix], Prefix]
"""Runs between two backbone layers: hidden states and their places as a prefix in, a shorter packed one out."""
NOTHING_AFTER: Mapping[int, LayerPruner] = MappingProxyType({})


class ActionModel(Protocol):
    """A vision-language-action model in the stages that engines run and time; an `nn.Module`."""

    spec: ModelSpec

    def embed_prefix(self, inputs: ModelInputs, *, run: Run = as_written) -> Prefix:
        """Images and text as tokens, unpacked; masked tokens take part in no attention.

        A family that can look at a view at half the resolution has `embed_coarse` beside it, and heeds `inputs.looks`.
        """
        ...

    def extra_queries(self, inputs: ModelInputs, noise: Tensor | None, wanted: str) -> Tensor | None:
        """Embeddings [B, T, D] that a pruner alone looks at, beside the prefix's text.

        Args:
            wanted: `text`, `text+state` or `text+state+action`, as the pruner's `queries` says.
        """
        ...

    def prefill(
        self, prefix: Prefix, *, after: Mapping[int, LayerPruner] = NOTHING_AFTER, run: Run = as_written
    ) -> PrefixCache:
        """Run the backbone over a prefix, packed or not.

        Args:
            after: backbone layer -> what may drop tokens behind it.
        """
        ...

    def decode(
        self,
        cache: PrefixCache,
        inputs: ModelInputs,
        noise: Tensor | None,
        steps: int | None,
        *,
        run: Run = as_written,
    ) -> Tensor:
        """Actions float32 [B, H, A], normalised. π0: Euler steps from the noise; a parallel decoder: its head.

        A family whose decoding can be guided has `decode_after` beside it, which takes a PreviousChunk as well.
        """
        ...

    def attention_stacks(self) -> Mapping[Phase, Sequence[nn.Module]]:
        """Phase -> the layers that run in it, each with a `self_attn` that has an `observer` and `num_heads`, and with
        `queries_keys(x, rope)` where pruning methods may go by attention."""
        ...

    @property
    def final_norm(self) -> nn.Module | None:
        """The norm behind the backbone's last layer; None: pruning methods cannot have it."""
        ...

    @property
    def tower(self) -> TowerLayer | None:
        """Whose attention says what stands out in a picture; None: pruning methods cannot have it."""
        ...

    def flops(self, views: int, tokens: int | Sequence[int], steps: int | None) -> Mapping[str, float]:
        """GFLOP of one inference by stage (`vision, prefill, denoise`), and their `total`.

        Args:
            views: images that are really there.
            tokens: prefix tokens that the backbone saw, `post_seq_len` in a trace; or those of each layer, 0 for one
                that did not run, `layer_tokens` in a trace.
        """
        ...


class Processor(Protocol):
    """From observations to a model's inputs and from its outputs to the robot's actions; stateless.

    Each family has one in its `processing.py`; pictures, state and actions are shared (`common/processing.py`).
    """

    robot: RobotMapping

    def inputs(self, observations: Sequence[Observation]) -> ModelInputs:
        """One batch, on the host. Raises FoveateError where a view is missing or the state has another length."""
        ...

    def actions(self, actions: Tensor, observations: Sequence[Observation]) -> np.ndarray:
        """The model's actions [B, H, A] -> the robot's, float32 [B, H, action_dim]; NaN stays NaN."""
        ...

    def targets(self, actions: np.ndarray, states: np.ndarray) -> Tensor:
        """The robot's actions -> what the model is trained to give: the inverse of `actions`."""
        ...

    def pieces(self, tokens: np.ndarray) -> list[str]:
        """The text of each prompt token, int64 [L]."""
        ...

    def model_images(self, observation: Observation) -> dict[str, np.ndarray]:
        """View -> uint8 [size, size, 3]: the pictures as the model sees them; absent cameras are left out."""
        ...

    def source_images(self, observation: Observation) -> dict[str, np.ndarray]:
        """View -> the observation's own picture, at its own resolution; absent cameras are left out."""
        ...

    def picture_patches(self, observation: Observation) -> dict[str, np.ndarray]:
        """View -> bool [rows, columns]: patches that show some of the picture, and not its borders alone."""
        ...


class Passage(Protocol):
    """What may drop tokens while a model runs, as `pruning.inference.Pruning` does it."""

    def vision(self, run: Run) -> Run: ...
    def before(self, whole: Prefix, fit: Callable[[Prefix], Prefix]) -> Prefix: ...
    def after(self, fit: Callable[[Prefix], Prefix]) -> Mapping[int, LayerPruner]: ...
    def prefill(self, run: Run) -> Run: ...


class Pruner(Protocol):
    """What a model that prunes by itself needs of a pruning method; see `pruning.base`."""

    def select(self, prefix: Prefix, queries: Tensor | None = None) -> Selection: ...


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How a checkpoint is read; what no file of its folder tells."""

    device: str = "cpu"
    """Torch device of the policy."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the large matrices."""
    robot: str | None = None
    """Robot mapping: a shipped one (droid, libero, aloha, metaworld) or a YAML file; null: as the checkpoint says."""
    config_name: str | None = None
    """Name of openpi's training configuration (--policy.config): robot, actions per chunk and pruning of a checkpoint
    that does not tell; null: as the checkpoint says."""
    tokenizer: str | None = None
    """Sentencepiece model file, where the checkpoint folder has none."""
    asset_id: str | None = None
    """Name of the norm stats (a folder under assets), where the checkpoint has several."""
    action_horizon: int | None = None
    """Actions per chunk of an openpi checkpoint, which does not store it; null: that of openpi's published policy."""
    num_steps: int | None = None
    """Denoising (Euler) steps, --denoising_steps; null: as the checkpoint says."""
    denoising_times: tuple[float, ...] | None = None
    """Times of the denoising steps, from 1 (noise) down to above 0; null: evenly spaced."""
    lerobot_version: Literal["0.4", "0.5"] | None = None
    """LeRobot that trained a LeRobot policy: 0.4 (also before) padded pictures with -3, and the state in the prompt."""
    lora_adapter: str | None = None
    """Folder of a LoRA adapter (as peft saves it) that is merged into an OpenVLA-OFT checkpoint's weights."""
    action_rows: Literal["trained", "lightvla"] | None = None
    """Tokens that OpenVLA-OFT's action head reads: those of training, or as LightVLA's inference, two further on; null:
    those of training."""
    clean_prompt: bool | None = None
    """Whether underscores and line breaks of the instruction become spaces; null: yes, but for LeRobot's π0."""


class Info(Protocol):
    """A checkpoint, as far as it can be known without reading its tensors."""

    @property
    def path(self) -> Path: ...
    @property
    def spec(self) -> ModelSpec: ...
    @property
    def robot(self) -> RobotMapping | None: ...
    @property
    def pruner(self) -> Any:
        """The pruner's config that the policy was trained with, as plain values; None: none."""
        ...

    @property
    def missing(self) -> tuple[str, ...]:
        """What has to be supplied before the policy can run, with what to do about it."""
        ...


class Family(NamedTuple):
    """A kind of model: how its checkpoints are known and loaded."""

    name: str
    detect: Callable[[Path, ModelOptions], Info | None]
    """Looks at a folder's small files; None: not of this family. Raises FoveateError: of this family and damaged."""
    load: Callable[[Any, ModelOptions], tuple[ActionModel, Processor]]
    """From what `detect` found. Raises FoveateError: something that a policy needs is missing, or weights differ."""
    describe: Callable[[Any], dict[str, Any]]
    """What `detect` found, in plain values for `foveate inspect --json`."""
    as_text: Callable[[dict[str, Any]], str]
    """The same for people."""


def by_layer(tokens: int | Sequence[int], depth: int) -> list[int]:
    """The tokens of each of so many layers, where they are one number for all or already a number for each."""
    each = list(tokens) if isinstance(tokens, Sequence) else [tokens] * depth
    if len(each) != depth:
        raise FoveateError(f"tokens: expected a number, or one for each of {depth} layers, got {len(each)} of them")
    return each


def embed_views(inputs: ModelInputs, tower: Callable[[Tensor], Tensor]) -> Tensor:
    """Tokens of all views, [B, V * P, D]; the tower [n, 3, H, W] -> [n, P, D] does not run for absent cameras."""
    # NumPy, so that it is known even where a step is planned on tensors without numbers.
    present, flat = inputs.on_host()[0].numpy().ravel(), inputs.images.flatten(0, 1)
    if present.all():
        embeds = tower(flat)
    else:
        index = torch.from_numpy(np.flatnonzero(present)).to(flat.device)
        seen = tower(flat[index])
        embeds = seen.new_zeros(flat.shape[0], *seen.shape[1:]).index_put((index,), seen)
    return embeds.reshape(len(inputs.images), -1, embeds.shape[-1])


def span_counts(layout: TokenLayout, present: Tensor, words: Tensor, seen: np.ndarray | None = None) -> np.ndarray:
    """int64 [B, spans]: real tokens of each span, of masks on the host.

    Args:
        present: bool [B, V], views that are there.
        words: bool [B, L], real tokens of the span named `text`.
        seen: int64 [B, V], tokens of each view; None: all of the views that are there.
    """
    counts, view = np.empty((len(present), len(layout.spans)), np.int64), 0
    cameras, real = present.numpy(), words.numpy().sum(1)
    for i, span in enumerate(layout.spans):
        counts[:, i] = len(span)
        if span.kind == "image":
            counts[:, i] = counts[:, i] * cameras[:, view] if seen is None else seen[:, view]
            view += 1
        elif span.name == "text":
            counts[:, i] = real
    return counts


def pack(prefix: Prefix, keep: Tensor | None = None, *, length: int | None = None) -> Prefix:
    """Drop every token that is masked (padding, of an absent camera, pruned) or not in `keep`; pad to the longest row.

    Position ids travel with their tokens, so dropping masked tokens alone changes no result.

    Args:
        keep: bool [B, N], which tokens to retain besides the mask; None retains all real ones.
        length: slots to pad to, of the longest row or more; None: the longest row, which only the device knows.
    """
    if prefix.full and keep is None and length in (None, prefix.mask.shape[1]):
        return prefix
    mask = prefix.mask if keep is None else prefix.mask & keep
    lengths = mask.sum(-1)
    slots = int(lengths.max()) if length is None else length
    # A stable sort of "dropped" (0/1) brings the kept tokens to the front in their original order.
    order = torch.argsort(~mask, dim=-1, stable=True)[:, :slots]
    order = F.pad(order, (0, slots - order.shape[1]))
    slot = torch.arange(slots, device=mask.device)
    packed_mask = slot < lengths[:, None]
    source = order if prefix.source is None else prefix.source.gather(1, order)
    return dataclasses.replace(
        prefix,
        embeds=prefix.embeds.gather(1, order[..., None].expand(-1, -1, prefix.embeds.shape[-1])),
        mask=packed_mask,
        position_ids=prefix.position_ids.gather(1, order),
        source=source.masked_fill(~packed_mask, -1),
        full=length is None and bool((lengths == slots).all()),
    )


def passed(model: ActionModel, inputs: ModelInputs, passage: Passage | None) -> PrefixCache:
    """The prefix of a training step, prefilled. Without a passage only what every row lacks is dropped, as a camera."""
    if passage is None:
        prefix = model.embed_prefix(inputs)
        shorter = prefix.at_most is not None and prefix.at_most.sum(1).max() < prefix.mask.shape[1]
        return model.prefill(pack(prefix) if shorter else prefix)
    whole = model.embed_prefix(inputs, run=passage.vision(as_written))
    # The run comes after the choice: which layers it leaves out may depend on it.
    prefix = passage.before(whole, pack)
    return model.prefill(prefix, after=passage.after(pack), run=passage.prefill(as_written))
