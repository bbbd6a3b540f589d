"""Dumps that LightVLA's own trace scripts wrote (`scripts/trace`, schema `v1` too), brought into foveate's form.

    dump = adopt(dump)                         # one of foveate's own comes back as it is

Both are dicts of one shape with other names: one grid for all pictures, a batch axis, `episode_idx` and `step_idx`,
a list of capabilities, and `indices` and `keep_counts` that count by query where foveate's count by patch.
docs/from-lightvla.md has the table. Knows neither torch nor files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from foveate.tracing.schema import CAPABILITIES, capabilities, leaves

GRIDS = ("patch_grid_hw", "patch_grid")
"""Their name of the grid, [rows, columns] of every picture; foveate's is `patch_grids`, by view."""
RENAMED = {
    "meta.episode_idx": "meta.episode",
    "meta.step_idx": "meta.step",
    "meta.checkpoint_path": "meta.checkpoint",
    "align.patch_grid_hw": "align.patch_grids",
    "align.patch_grid": "align.patch_grids",
    "align.image_size_hw": "align.source_sizes",
}
"""Their field -> ours."""
TOLD_ELSEWHERE = frozenset(
    {
        "meta.timestamp", "meta.model_id", "meta.exp_name", "align.num_patches_per_image", "align.num_patches_total",
        "align.seq_layout", "routing.num_patches", "routing.num_kept", "routing.selection_mode", "attn.layers",
        "attn.reduce", "outputs_summary",
    }
)  # fmt: skip
"""Fields that are understood and not needed: another one tells the same, or nothing is made of them."""
KINDS = ("read", "told_elsewhere", "not_understood")
"""What may become of a field."""
CLAIMS = {
    "routing_scores": "router_scores",
    "routing_indices": "routing",
    "routing_keep_mask": "routing",
    "routing_keep_counts": "routing",
    "routing_raw_score": "raw_score",
    "routing_score_max_per_query": "score_stats",
    "routing_score_entropy_per_query": "score_stats",
    "token_counts": "seq_lens",
    "attn_task_to_vis": "attn",
    "patch_grid_hw": None,
}
"""Their capability -> ours; None: every dump has it."""


def is_lightvla(dump: Mapping[str, Any]) -> bool:
    """Whether a dump has the names of LightVLA's scripts."""
    align = dump.get("align")
    return isinstance(align, Mapping) and "patch_grids" not in align and any(name in align for name in GRIDS)


def adopt(dump: Mapping[str, Any]) -> Mapping[str, Any]:
    """The dump in foveate's form, without the fields that are told elsewhere; fields of neither schema stay.

    Raises:
        ValueError: it holds a batch of several inferences, or its grid cannot be told.
    """
    if not is_lightvla(dump):
        return dump
    there = _without_none(dump)
    meta, align, routing, attn = (dict(_part(there, name)) for name in ("meta", "align", "routing", "attn"))
    adopted: dict[str, Any] = {**there, "meta": _meta(meta), "routing": _routing(routing)}
    adopted["align"] = _align(align, adopted["routing"])
    if maps := attn.get("task_to_vis"):
        adopted["attn"] = {"task_to_vis": {int(layer): np.asarray(rows, np.float32) for layer, rows in maps.items()}}
    else:  # they write an empty one where no layer was asked for
        adopted.pop("attn", None)
    adopted.pop("outputs_summary", None)
    adopted["capabilities"] = _capabilities(there.get("capabilities"), adopted)
    views = [grid[0] * grid[1] for grid in adopted["align"]["patch_grids"].values()]
    if (mask := adopted["routing"].get("keep_mask")) is not None and sum(views) == len(mask):
        adopted["routing"]["keep_counts"] = np.add.reduceat(mask.astype(np.int64), np.cumsum([0, *views[:-1]]))
    return adopted


def coverage(dump: Mapping[str, Any]) -> dict[str, list[str]]:
    """The fields of a dump, of either form, by what becomes of them (`KINDS`)."""
    foreign = is_lightvla(dump)
    read = {*leaves(), *(RENAMED if foreign else ())}
    told = TOLD_ELSEWHERE if foreign else frozenset()
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for path in _paths(_without_none(dump), read | told):
        found["read" if path in read else "told_elsewhere" if path in told else "not_understood"].append(path)
    claims = dump.get("capabilities")
    if foreign and isinstance(claims, list | tuple):
        found["not_understood"] += [f"capabilities: {claim}" for claim in map(str, claims) if claim not in CLAIMS]
    return found


def ours(path: str) -> str:
    """The name in foveate's schema of a field of either form."""
    return RENAMED.get(path, path)


def _meta(meta: dict[str, Any]) -> dict[str, Any]:
    for theirs, own in RENAMED.items():
        section, _, name = theirs.partition(".")
        if section == "meta" and name in meta:
            meta.setdefault(own.partition(".")[2], meta.pop(name))
    # `task000_ep000_t0010_q002_<process>_<random>`: the only place of the inference's number.
    number = re.search(r"_q(\d+)(?:_|$)", str(meta.get("sample_id", "")))
    if number:
        meta.setdefault("query", int(number[1]))
    return {name: value for name, value in meta.items() if f"meta.{name}" not in TOLD_ELSEWHERE}


def _align(align: Mapping[str, Any], routing: Mapping[str, Any]) -> dict[str, Any]:
    images = int(align.get("num_images_in_input", len(align.get("image_paths", ())) or 1))
    if not 1 <= images <= 64:
        raise ValueError(f"align.num_images_in_input: expected 1 to 64 pictures, got {images}")
    views = [f"img{index}" for index in range(images)]
    grid = next((align[name] for name in GRIDS if name in align), None)
    if grid is None:
        grid = _square(len(routing.get("keep_mask", ())), images)
    sizes = _per_picture(align.get("image_size_hw", ()), images)
    adopted = {
        "views": views,
        "patch_grids": dict(zip(views, _per_picture(grid, images), strict=True)),
        "num_images_in_input": images,
        "image_paths": [_in_run_folder(path) for path in align.get("image_paths", ())],
        "source_sizes": dict(zip(views, sizes, strict=False)),
    }
    rest = {name: value for name, value in align.items() if f"align.{name}" not in {*RENAMED, *TOLD_ELSEWHERE}}
    return rest | {name: value for name, value in adopted.items() if value}


def _square(patches: int, images: int) -> list[int]:
    """The grid of a dump whose scripts did not find it; their towers have square ones."""
    side = math.isqrt(patches // images)
    if not side or side * side * images != patches:
        raise ValueError(f"align.{GRIDS[0]}: missing, and {patches} patches are not {images} squares")
    return [side, side]


def _per_picture(pairs: Any, images: int) -> list[list[int]]:
    """One pair for all pictures, or one for each -> one for each."""
    one_for_all = len(pairs) == 2 and not any(isinstance(item, list | tuple) for item in pairs)
    return [list(pair) for pair in ([pairs] * images if one_for_all else pairs)]


def _in_run_folder(path: Any) -> Any:
    """They write paths from where the script ran; the run folder's part begins at `images/`. Others are no picture."""
    parts = PurePath(str(path)).parts
    if "images" in parts:
        return "/".join(parts[len(parts) - 1 - parts[::-1].index("images") :])
    return "" if PurePath(str(path)).is_absolute() else path


def _routing(routing: dict[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in routing.items() if f"routing.{name}" not in TOLD_ELSEWHERE}
    votes, chosen = (_row(found.pop(name, None), name) for name in ("keep_counts", "indices"))
    mask = _row(found.get("keep_mask"), "keep_mask")
    if mask is None and votes is not None:
        mask = votes > 0
    if mask is not None:
        found["keep_mask"] = mask.astype(bool)
        found["indices"] = np.flatnonzero(mask).astype(np.int64)
    elif chosen is not None:
        raise ValueError("routing.indices without keep_mask: the number of patches cannot be told")
    scores = _row(found.get("router_scores"), "router_scores")
    if scores is None and votes is not None:
        scores = votes / max(1, votes.sum())
    if scores is not None:
        found["router_scores"] = scores.astype(np.float32)
    if "kept_ratio" in found:
        found["kept_ratio"] = float(np.asarray(found["kept_ratio"]).reshape(-1)[0])
    if "raw_score" in found:
        found["raw_score"] = _row(found["raw_score"], "raw_score", axes=2).astype(np.float32)
    if stats := found.get("score_stats"):
        found["score_stats"] = {name: _row(values, name).astype(np.float32) for name, values in stats.items()}
    return found


def _row(values: Any, name: str, axes: int = 1) -> Any:
    """Of one inference, without the batch axis; None where there is none."""
    if values is None:
        return None
    array = np.asarray(values)
    if array.ndim == axes + 1:
        if len(array) != 1:
            raise ValueError(f"routing.{name}: a dump holds one inference, this one {len(array)}")
        array = array[0]
    return array


def _capabilities(claims: Any, adopted: Mapping[str, Any]) -> Any:
    """What the dump holds; what it claims beside that stays, so that a check finds the contradiction."""
    if not isinstance(claims, list | tuple):
        return claims
    return capabilities(adopted) | {
        name: True for claim in claims if (name := CLAIMS.get(str(claim))) is not None and name in CAPABILITIES
    }


def _part(dump: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = dump.get(name, {})
    if not isinstance(part, Mapping):
        raise ValueError(f"{name}: expected a dict, got {type(part).__name__}")
    return part


def _without_none(value: Any) -> Any:
    """Without keys that hold None, with which they say that something is not known."""
    if not isinstance(value, Mapping):
        return value
    return {key: _without_none(item) for key, item in value.items() if item is not None}


def _paths(value: Mapping[Any, Any], known: Collection[str], prefix: str = "") -> Iterator[str]:
    """Dotted names of what a dump holds; a known field is one, whatever is in it."""
    for key, item in value.items():
        path = f"{prefix}{key}"
        if f"{path}.*" in known:
            yield from [f"{path}.*"] if item else []
        elif isinstance(item, Mapping) and item and path not in known:
            yield from _paths(item, known, f"{path}.")
        else:
            yield path
