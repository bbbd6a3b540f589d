"""openpi's JAX parameter tree of π0 and π0.5: its sizes, and which PyTorch parameters each array becomes.

Array names are paths below the tree's top `params`. Shapes in comments: L layers, D width, N query heads, K key heads,
H numbers of a head, F hidden units of the MLP, r rank of an adapter. Most arrays hold all layers, along the first axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from foveate.convert.orbax import FLOATS, OrbaxArray
from foveate.errors import FoveateError
from foveate.models.pi0.config import GemmaConfig, Pi0Config, VisionConfig
from foveate.util.words import plural

Arrays = Mapping[str, OrbaxArray]
_IMAGE, _TEXT = "PaliGemma/img/", "PaliGemma/llm/"
_BLOCK = _IMAGE + "Transformer/encoderblock/"
_LAYERS = _TEXT + "layers/"
_PALIGEMMA = "paligemma_with_expert.paligemma."
_TOWER = _PALIGEMMA + "model.vision_tower.vision_model."
_TOWER_LAYER = _TOWER + "encoder.layers.{i}."


def _same(x: Tensor) -> Tensor:
    return x


def _dense(x: Tensor) -> Tensor:
    """[in, out] -> [out, in]."""
    return x.T


def _flat(x: Tensor) -> Tensor:
    return x.flatten()


def _first(x: Tensor) -> Tensor:
    return x[0]


def _patches(x: Tensor) -> Tensor:
    """[height, width, channels, D] -> [D, channels, height, width]."""
    return x.permute(3, 2, 0, 1)


def _to_heads(x: Tensor) -> Tensor:
    """[N, D, H] -> [N H, D]."""
    return x.transpose(1, 2).flatten(0, 1)


def _from_heads(x: Tensor) -> Tensor:
    """[N, H, D] -> [D, N H]."""
    return x.flatten(0, 1).T


def _to_heads_of_the_tower(x: Tensor) -> Tensor:
    """[D, N, H] -> [N H, D]."""
    return x.flatten(1).T


@dataclass(frozen=True)
class Rule:
    """One array of the tree, and the PyTorch parameters that it becomes."""

    source: str
    targets: tuple[str, ...]
    """openpi's PyTorch names. `{i}`: one for each entry of the first axis. Several: one for each entry of the next."""
    turn: Callable[[Tensor], Tensor] = _same
    """From what is left of the array to the parameter."""

    @property
    def stacked(self) -> bool:
        return "{i}" in self.targets[0]


def rules(arrays: Arrays, pi05: bool) -> list[Rule]:
    """Of every array that a π0 or π0.5 has, adapters aside.

    Args:
        arrays: tell only whether queries, keys and values are in one array.
    """
    projections = ["action_in_proj", "action_out_proj"]
    projections += (
        ["time_mlp_in", "time_mlp_out"] if pi05 else ["state_proj", "action_time_mlp_in", "action_time_mlp_out"]
    )
    return [
        *_tower(),
        Rule(_TEXT + "embedder/input_embedding", (_PALIGEMMA + "lm_head.weight",)),
        *_gemma(arrays, "", _PALIGEMMA + "model.language_model.", adaptive=False),
        *_gemma(arrays, "_1", "paligemma_with_expert.gemma_expert.model.", adaptive=pi05),
        *(rule for name in projections for rule in _linear(name, name)),
    ]


def _linear(source: str, target: str) -> list[Rule]:
    return [Rule(f"{source}/kernel", (f"{target}.weight",), _dense), Rule(f"{source}/bias", (f"{target}.bias",))]


def _norm(source: str, target: str) -> list[Rule]:
    return [Rule(f"{source}/scale", (f"{target}.weight",)), Rule(f"{source}/bias", (f"{target}.bias",))]


def _tower() -> Iterator[Rule]:
    yield Rule(_IMAGE + "embedding/kernel", (_TOWER + "embeddings.patch_embedding.weight",), _patches)
    yield Rule(_IMAGE + "embedding/bias", (_TOWER + "embeddings.patch_embedding.bias",))
    yield Rule(_IMAGE + "pos_embedding", (_TOWER + "embeddings.position_embedding.weight",), _first)  # [1, P, D]
    for n in (0, 1):
        yield from _norm(f"{_BLOCK}LayerNorm_{n}", f"{_TOWER_LAYER}layer_norm{n + 1}")
        yield from _linear(f"{_BLOCK}MlpBlock_0/Dense_{n}", f"{_TOWER_LAYER}mlp.fc{n + 1}")
    attention = _BLOCK + "MultiHeadDotProductAttention_0/"
    for name, part in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        target = f"{_TOWER_LAYER}self_attn.{part}"
        yield Rule(f"{attention}{name}/kernel", (f"{target}.weight",), _to_heads_of_the_tower)
        yield Rule(f"{attention}{name}/bias", (f"{target}.bias",), _flat)  # [L, N, H]
    yield Rule(attention + "out/kernel", (_TOWER_LAYER + "self_attn.out_proj.weight",), _from_heads)
    yield Rule(attention + "out/bias", (_TOWER_LAYER + "self_attn.out_proj.bias",))
    yield from _norm(_IMAGE + "Transformer/encoder_norm", _TOWER + "post_layernorm")
    yield from _linear(_IMAGE + "head", _PALIGEMMA + "model.multi_modal_projector.linear")


def _gemma(arrays: Arrays, suffix: str, target: str, *, adaptive: bool) -> Iterator[Rule]:
    """One of the two stacks: the backbone, or with suffix `_1` the action expert."""
    attn, layer = _LAYERS + "attn/", target + "layers.{i}."
    q, k, v = (f"{layer}self_attn.{part}_proj.weight" for part in "qkv")
    if f"{attn}qkv_einsum{suffix}/w" in arrays:  # as many key heads as query heads; [L, 3, N, D, H]
        yield Rule(f"{attn}qkv_einsum{suffix}/w", (q, k, v), _to_heads)
    else:
        yield Rule(f"{attn}q_einsum{suffix}/w", (q,), _to_heads)  # [L, N, D, H]
        yield Rule(f"{attn}kv_einsum{suffix}/w", (k, v), _to_heads)  # [L, 2, K, D, H]
    yield Rule(f"{attn}attn_vec_einsum{suffix}/w", (f"{layer}self_attn.o_proj.weight",), _from_heads)  # [L, N, H, D]
    gate, up = (f"{layer}mlp.{part}_proj.weight" for part in ("gate", "up"))
    yield Rule(f"{_LAYERS}mlp{suffix}/gating_einsum", (gate, up), _dense)  # [L, 2, D, F]
    yield Rule(f"{_LAYERS}mlp{suffix}/linear", (f"{layer}mlp.down_proj.weight",), _dense)  # [L, F, D]
    norms = {
        f"{_LAYERS}pre_attention_norm{suffix}": f"{layer}input_layernorm",
        f"{_LAYERS}pre_ffw_norm{suffix}": f"{layer}post_attention_layernorm",
        f"{_TEXT}final_norm{suffix}": f"{target}norm",
    }
    for source, name in norms.items():
        # Both sides multiply by 1 + weight.
        yield from (
            _linear(f"{source}/Dense_0", f"{name}.dense")
            if adaptive
            else [Rule(f"{source}/scale", (f"{name}.weight",))]
        )


@dataclass(frozen=True)
class Adapter:
    """LoRA's two factors of one array. Both have its leading axes; [..., in, r] and [..., r, out]."""

    a: OrbaxArray
    b: OrbaxArray
    scale: float
    summed: bool
    """Whether B is summed over the heads: openpi's rewriting of the output projection's einsum (`BTNH,NHD->BTD`) drops
    the head axis between A and B, so that each head's A meets the sum of all B."""

    @property
    def rank(self) -> int:
        return self.a.shape[-1]

    def slices(self) -> Iterator[Tensor]:
        """What is added to each layer's weight, float64."""
        for a, b in zip(self.a.slices(), self.b.slices(), strict=True):
            b = b.double()
            yield (a.double() @ (b.sum(0) if self.summed else b)).mul_(self.scale)


def find_adapters(arrays: Arrays, lora_scale: float) -> dict[str, Adapter]:
    """Array -> its adapter.

    Args:
        lora_scale: alpha / rank of the attention's adapters (or alpha / sqrt(rank)); openpi never scales the MLP's.
    Raises:
        FoveateError: half of an adapter, one without its array, or shapes that do not fit it.
    """
    found: dict[str, Adapter] = {}
    for name in sorted(arrays):
        stem, cut, side = name.rpartition("lora_")
        if not cut or side not in ("a", "b"):
            continue
        # `attn/q_einsum/lora_a` stands beside `attn/q_einsum/w`; `mlp/linear_lora_a` beside `mlp/linear`.
        source = stem + "w" if stem.endswith("/") else stem.removesuffix("_")
        pair = [arrays.get(f"{stem}lora_{end}") for end in "ab"]
        a, b = pair
        if source not in arrays or a is None or b is None:
            there = [n for n in (source, f"{stem}lora_a", f"{stem}lora_b") if n in arrays]
            raise FoveateError(
                f"LoRA adapter {stem}lora_a, _b of {source}: only {there} is there; copy the checkpoint again"
            )
        shape, rank = arrays[source].shape, a.shape[-1]
        if a.shape != (*shape[:-1], rank) or b.shape != (*shape[:-2], rank, shape[-1]):
            raise FoveateError(f"LoRA adapter of {source} {shape}: factors {a.shape} and {b.shape} do not fit it")
        scale = lora_scale if stem.endswith("/") else 1.0
        found[source] = Adapter(a, b, scale, summed="attn_vec_einsum" in source)
    return found


def parameters(rule: Rule, array: OrbaxArray, adapter: Adapter | None) -> Iterator[tuple[str, Tensor]]:
    """PyTorch's name and value of everything that an array becomes; merged in float64 where it has an adapter."""
    if not rule.stacked:
        yield rule.targets[0], rule.turn(array.read())
        return
    added = adapter.slices() if adapter else None
    for i, layer in enumerate(array.slices()):
        merged = layer if added is None else next(added).add_(layer)
        parts = merged if len(rule.targets) > 1 else [merged]
        for target, part in zip(rule.targets, parts, strict=True):
            yield target.format(i=i), rule.turn(part)


def read_sizes(arrays: Arrays) -> Pi0Config:
    """The model's sizes; action horizon and prompt length stay at their defaults, since no array tells them.

    Raises:
        FoveateError: arrays of a π0 are missing, or shapes contradict each other.
    """

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in arrays:
            raise FoveateError(f"no tree of π0 or π0.5: it lacks {name!r}; {_nearest(arrays)}")
        if len(arrays[name].shape) != rank or not all(arrays[name].shape):
            raise FoveateError(f"{name}: expected {rank} axes, got shape {arrays[name].shape}")
        return arrays[name].shape

    def gemma(suffix: str) -> GemmaConfig:
        attn = _LAYERS + "attn/"
        if f"{attn}qkv_einsum{suffix}/w" in arrays:
            depth, _, heads, width, head_dim = shape(f"{attn}qkv_einsum{suffix}/w", 5)
            kv_heads = heads
        else:
            depth, heads, width, head_dim = shape(f"{attn}q_einsum{suffix}/w", 4)
            kv_heads = shape(f"{attn}kv_einsum{suffix}/w", 5)[2]
        return GemmaConfig(width, depth, shape(f"{_LAYERS}mlp{suffix}/linear", 3)[1], heads, kv_heads, head_dim)

    patch, _, _, hidden = shape(_IMAGE + "embedding/kernel", 4)
    depth, _, mlp_dim = shape(_BLOCK + "MlpBlock_0/Dense_0/kernel", 3)
    vision = VisionConfig(
        hidden_size=hidden,
        num_hidden_layers=depth,
        num_attention_heads=shape(_BLOCK + "MultiHeadDotProductAttention_0/query/kernel", 4)[2],
        intermediate_size=mlp_dim,
        patch_size=patch,
        image_size=math.isqrt(shape(_IMAGE + "pos_embedding", 3)[1]) * patch,
        projection_dim=shape(_IMAGE + "head/kernel", 2)[1],
    )
    vocabulary = shape(_TEXT + "embedder/input_embedding", 2)[0]
    llm, expert = gemma(""), gemma("_1")
    # By what is there, not by the folder's name, as openpi's own converter does it.
    pi05 = f"{_LAYERS}pre_attention_norm_1/Dense_0/kernel" in arrays
    action_dim = shape("action_in_proj/kernel", 2)[0]
    return Pi0Config(
        pi05=pi05,
        action_dim=action_dim,
        max_token_len=200 if pi05 else 48,
        vocab_size=vocabulary,
        llm=llm,
        expert=expert,
        vision=vision,
    )


@dataclass(frozen=True)
class Pi0Tree:
    """A π0 or π0.5, as far as names and shapes tell."""

    sizes: Pi0Config
    """Action horizon and prompt length are no array's, so they are defaults here."""
    rules: tuple[Rule, ...]
    adapters: Mapping[str, Adapter]
    """Array -> its LoRA adapter."""
    unused: tuple[str, ...]
    """Arrays that are no part of the model."""


def read_pi0(arrays: Arrays, lora_scale: float = 1.0) -> Pi0Tree:
    """What the tree is; no data are read.

    Args:
        lora_scale: as of `find_adapters`.
    Raises:
        FoveateError: it is no π0, arrays are missing, or shapes contradict each other.
    """
    model = read_sizes(arrays)
    wanted = rules(arrays, model.pi05)
    _check_arrays(arrays, wanted)
    lora = find_adapters(arrays, lora_scale)
    used = {array.key for pair in lora.values() for array in (pair.a, pair.b)}
    used |= {arrays[rule.source].key for rule in wanted}
    unused = tuple(name for name, array in arrays.items() if array.key not in used)
    return Pi0Tree(model, tuple(wanted), lora, unused)


def _check_arrays(arrays: Arrays, wanted: list[Rule]) -> None:
    """Raises FoveateError where arrays of the model are missing or hold no floats; all are named."""
    if missing := [rule.source for rule in wanted if rule.source not in arrays]:
        raise FoveateError(
            f"{plural(len(missing), 'array')} of the tree missing: {', '.join(missing)}; copy the checkpoint again"
        )
    strange = [f"{name} ({array.dtype})" for name, array in arrays.items() if array.dtype not in FLOATS]
    if strange:
        raise FoveateError(f"expected arrays of {', '.join(FLOATS)}, got {', '.join(strange[:8])}")


def _nearest(arrays: Arrays) -> str:
    """What else the tree may be, in half a sentence."""
    tops = sorted({name.partition("/")[0] for name in arrays})
    if _TEXT + "embedder/input_embedding" in arrays and "action_in_proj/kernel" not in arrays:
        return "it is a π0-FAST or a PaliGemma, which have no action expert and which foveate does not load"
    return f"its top level holds {', '.join(map(repr, tops[:8]))}"
