"""The trace schema, version v1: which fields a dump holds, their shapes, units and meaning, and a check of them.

A dump is the evidence of one inference: a dict of plain tensors, numbers and strings, written by `torch.save` and
read with `weights_only=True`. docs/trace-schema.md explains each field; this table is what code and tests go by.
Knows neither torch nor files: arrays may be NumPy's or torch's.

Letters of shapes: P patches of all views, V views, K kept patches, Q query rows of the pruner, H attention heads, T
actions of a chunk, A numbers of an action, S numbers of the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

SCHEMA_VERSION = "v1"

Kind = Literal["str", "int", "float", "bool", "list", "dict", "tensor"]
_TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}
_TYPES |= {"list": (list, tuple), "dict": (dict,)}


@dataclass(frozen=True)
class Field:
    """One field of a dump."""

    path: str
    """Dotted; `*` stands for any key."""
    kind: Kind
    meaning: str
    shape: str = ""
    """Axes of a tensor, `P` or `H P`."""
    dtype: str = ""
    unit: str = ""
    required: bool = False


FIELDS: tuple[Field, ...] = (
    Field("schema_version", "str", "`v1`", required=True),
    Field("meta.task", "str", "name of the task"),
    Field("meta.task_suite", "str", "the suite, where there is one"),
    Field("meta.task_id", "int", "number of the task in its suite", required=True),
    Field("meta.episode", "int", "episode of the task", required=True),
    Field("meta.step", "int", "environment step at which the policy inferred", unit="steps", required=True),
    Field("meta.query", "int", "number of the inference within the episode", unit="inferences"),
    Field("meta.sample_id", "str", "`task000_ep000_step00000`", required=True),
    Field("meta.instruction", "str", "what the policy was told"),
    Field("meta.checkpoint", "str", "the policy"),
    Field("meta.variant", "str", "`full`, `lightvla`, ...: the name of the run in tables"),
    Field("meta.seed", "int", "of the scene"),
    Field("align.views", "list", "names of the views, in the order of the patch axis", required=True),
    Field("align.patch_grids", "dict", "view -> [rows, columns] of its patches, row by row", required=True),
    Field("align.num_images_in_input", "int", "views that held a picture; absent cameras do not count", required=True),
    Field("align.image_paths", "list", "per view: PNG of the source picture, relative to the run folder; `` for none"),
    Field("align.source_sizes", "dict", "view -> [height, width] of the source picture", unit="pixels"),
    Field("align.model_image_size", "list", "[height, width] of the model's input, padding included", unit="pixels"),
    Field("align.model_crop", "float", "side of the picture's middle that the model saw", unit="0..1"),
    Field("align.flips", "dict", "view -> [vertical, horizontal]: the model saw the source picture mirrored so"),
    Field("routing.keep_mask", "tensor", "which patches the backbone saw", "P", "bool"),
    Field("routing.valid_mask", "tensor", "patches of cameras that are there", "P", "bool"),
    Field("routing.indices", "tensor", "kept patches on the patch axis, ascending", "K", "int64"),
    Field("routing.keep_counts", "tensor", "kept patches of each view", "V", "int64", "patches"),
    Field("routing.router_scores", "tensor", "for each patch the largest score any query gives it", "P", "float32"),
    Field("routing.coordinates", "tensor", "row, column of each resampled token", "P 2", "float32", "patches"),
    Field("routing.kept_ratio", "float", "kept patches / patches of cameras that are there", unit="0..1"),
    Field("routing.raw_score", "tensor", "the whole score matrix; only on request", "Q P", "float32"),
    Field("routing.seq_lens.pre_seq_len", "int", "prefix without padding, before pruning", unit="tokens"),
    Field("routing.seq_lens.post_seq_len", "int", "prefix as the backbone saw it, packed", unit="tokens"),
    Field("routing.seq_lens.padded_seq_len", "int", "prefix with all its padding, before pruning", unit="tokens"),
    Field("routing.seq_lens.pre_task_len", "int", "tokens behind the pictures, before pruning", unit="tokens"),
    Field("routing.seq_lens.post_task_len", "int", "the same, counted after pruning", unit="tokens"),
    Field("routing.seq_lens.prefix_reused", "int", "1: the actions go on from the prefix of an earlier inference"),
    Field("routing.layer_tokens", "list", "prefix tokens that each layer saw, 0: it did not run; absent: all alike"),
    Field("routing.history.*", "tensor", "what a method with a history went by"),
    Field("routing.score_stats.max_per_query", "tensor", "each query's largest score", "Q", "float32"),
    Field("routing.score_stats.entropy_per_query", "tensor", "of the softmax of its scores", "Q", "float32", "nats"),
    Field("routing.score_stats.tied_per_query", "tensor", "whether its best patch is tied with another", "Q", "bool"),
    Field("attn.task_to_vis.*", "tensor", "per layer: mean over valid task rows of the attention", "H P", "float32"),
    Field("decision.level", "dict", "view -> `NO`, `COARSE` or `FULL`, with `--looking`"),
    Field("decision.scores", "dict", "view -> the number that it was decided by, where it was one"),
    Field("decision.token_budget", "int", "visual tokens allowed", unit="tokens"),
    Field("observation.state", "tensor", "the robot's state, as the policy was given it", "S", "float32"),
    Field("action", "tensor", "the chunk that the policy answered with, in the environment's units", "T A", "float32"),
    Field("perf.forward_latency_s", "float", "the whole inference", unit="s"),
    Field("perf.stages_ms", "dict", "vision, prune, prefill, denoise, total; kv_cache: prefill again", unit="ms"),
    Field("capabilities", "dict", "name -> whether this dump holds it; see `capabilities`", required=True),
)  # fmt: skip

CAPABILITIES: dict[str, str] = {
    "images": "align.image_paths",
    "routing": "routing.keep_mask",
    "router_scores": "routing.router_scores",
    "raw_score": "routing.raw_score",
    "seq_lens": "routing.seq_lens",
    "score_stats": "routing.score_stats",
    "attn": "attn.task_to_vis",
    "decision": "decision.level",
    "action": "action",
    "perf": "perf.forward_latency_s",
    "stages": "perf.stages_ms",
}
"""Capability -> the field whose presence it states."""


def leaves() -> tuple[str, ...]:
    """The dotted names of all fields."""
    return tuple(spec.path for spec in FIELDS)


def lookup(dump: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; None where any part of it is absent."""
    value: Any = dump
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def capabilities(dump: Mapping[str, Any]) -> dict[str, bool]:
    """What a dump holds, by looking."""
    found = {name: lookup(dump, path) for name, path in CAPABILITIES.items()}
    # A list of empty paths is no picture.
    found["images"] = found["images"] if any(found["images"] or []) else None
    return {name: value is not None and not (isinstance(value, Mapping) and not value) for name, value in found.items()}


def validate(dump: Any) -> list[str]:
    """What is wrong with a dump, one sentence each; empty: it follows the schema.

    Fields that the schema does not know are allowed; a leading batch axis of 1 is not.
    """
    if not isinstance(dump, Mapping):
        return [f"expected a dict, got {type(dump).__name__}"]
    version = dump.get("schema_version")
    if version != SCHEMA_VERSION:
        return [f"schema_version: expected {SCHEMA_VERSION!r}, got {version!r}"]
    problems = []
    sizes = _sizes(dump)
    for spec in FIELDS:
        parent, _, leaf = spec.path.rpartition(".")
        values = lookup(dump, parent) or {} if leaf == "*" else {leaf: lookup(dump, spec.path)}
        for key, value in values.items() if isinstance(values, Mapping) else ():
            name = f"{parent}.{key}" if parent else str(key)
            if value is None:
                problems += [f"{name}: missing"] if spec.required else []
            else:
                problems += _check(name, spec, value, sizes)
    return problems + _contradictions(dump)


def _sizes(dump: Mapping[str, Any]) -> dict[str, int]:
    views, grids = lookup(dump, "align.views"), lookup(dump, "align.patch_grids")
    if not isinstance(views, list | tuple) or not isinstance(grids, Mapping):
        return {}
    try:
        return {"V": len(views), "P": sum(int(grids[v][0]) * int(grids[v][1]) for v in views)}
    except (KeyError, TypeError, IndexError, ValueError):
        return {}


def _check(name: str, spec: Field, value: Any, sizes: Mapping[str, int]) -> list[str]:
    if spec.kind != "tensor":
        right = isinstance(value, _TYPES[spec.kind]) and (spec.kind == "bool" or not isinstance(value, bool))
        return [] if right else [f"{name}: expected {spec.kind}, got {type(value).__name__}"]
    shape = getattr(value, "shape", None)
    if shape is None:
        return [f"{name}: expected a tensor [{spec.shape}], got {type(value).__name__}"]
    axes = spec.shape.split()
    expected = [sizes.get(axis, axis) for axis in axes]
    fits = len(shape) == len(axes) and all(isinstance(e, str) or e == s for e, s in zip(expected, shape, strict=True))
    problems = [] if fits else [f"{name}: expected shape {expected}, got {list(shape)}"]
    dtype = str(value.dtype).removeprefix("torch.")
    return problems if dtype == spec.dtype else [*problems, f"{name}: expected {spec.dtype}, got {dtype}"]


def _contradictions(dump: Mapping[str, Any]) -> list[str]:
    """Fields that are each well formed and do not agree."""
    problems = []
    views, grids = lookup(dump, "align.views"), lookup(dump, "align.patch_grids")
    if isinstance(views, list | tuple) and isinstance(grids, Mapping):
        problems += [f"align.patch_grids: no grid for view {view!r}" for view in views if view not in grids]
    mask, indices = lookup(dump, "routing.keep_mask"), lookup(dump, "routing.indices")
    if hasattr(mask, "shape") and hasattr(indices, "shape") and int(mask.sum()) != len(indices):
        problems.append(f"routing.indices: {len(indices)} patches, but keep_mask keeps {int(mask.sum())}")
    stated = dump.get("capabilities")
    if isinstance(stated, Mapping):
        held = capabilities(dump)
        wrong = [name for name in held if name in stated and bool(stated[name]) != held[name]]
        problems += [f"capabilities.{name}: says {stated[name]}, the dump says {held[name]}" for name in wrong]
    return problems
