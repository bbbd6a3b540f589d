"""One inference as the page draws it: plain JSON values of a `Record`.

The page multiplies, it does not know geometry: for each pixel row and column of a source picture it gets the patch row
and column, by `foveate.geometry`, and colours and strengths are those of `viz.overlay`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from foveate.errors import FoveateError, unknown
from foveate.geometry import patch_axes
from foveate.tracing.record import Record, View
from foveate.util.pictures import HARD_LIMIT, picture_size
from foveate.viz.drawing import palette
from foveate.viz.overlay import ATTN_COLORS, DIM, SCORE_COLORS, STRENGTH, Heat, attention_heat, heat
from foveate.viz.plots import picture_path


def colors() -> dict[str, Any]:
    """What overlays are made of: colour maps as `[256][r, g, b]`, the share of the colour, the brightness left."""
    maps = {name: palette(name).tolist() for name in (SCORE_COLORS, ATTN_COLORS)}
    return {"palettes": maps, "strength": STRENGTH, "dim": DIM}


def describe(record: Record) -> dict[str, Any]:
    """Everything about an inference but its pictures and heat maps.

    `keep` and `valid` are texts of 0 and 1, a letter per patch of all views.
    """
    problems: list[str] = []
    return {
        "name": record.name,
        "meta": {key: value for key, value in record.meta.items() if isinstance(value, str | int | float)},
        "views": [_view(record, view, problems) for view in record.views],
        "problems": problems,
        "keep": _bits(record.keep_mask),
        "valid": _bits(record.valid),
        "patches": record.num_patches,
        "kept": record.kept_per_view(),
        "scores": record.scores is not None,
        "attention": {str(layer): int(maps.shape[0]) for layer, maps in sorted(record.attn.items())},
        "seq_lens": dict(record.seq_lens),
        "stages_ms": dict(record.stages_ms),
        "latency_s": record.latency_s,
        "state": None if record.state is None else record.state.tolist(),
    }


def heat_of(record: Record, kind: str, layer: int | None = None, head: int | None = None) -> dict[str, Any]:
    """The values of a heat map, one per patch of all views, and its colour scale.

    Args:
        kind: score or attention.
        head: None: the mean of the layer's heads.
    Raises:
        FoveateError: the inference has no such map.
    """
    if kind == "score":
        if record.scores is None:
            raise FoveateError(f"{record.name}: its method gives patches no scores")
        return _heat(heat(record)["score_heatmap"])
    if kind != "attention":
        raise unknown("overlay", kind, ("score", "attention"))
    if layer is None or layer not in record.attn:
        raise FoveateError(f"{record.name}: no attention of layer {layer}; layers: {_list(record.attn)}")
    heads = len(record.attn[layer])
    if head is not None and not 0 <= head < heads:
        raise FoveateError(f"{record.name}: no head {head}; layer {layer} has heads 0 to {heads - 1}")
    return _heat(attention_heat(record, layer, head))


def _heat(drawn: Heat) -> dict[str, Any]:
    values = np.where(np.isfinite(drawn.values), drawn.values, drawn.scale[0])
    return {"values": values.tolist(), "low": drawn.scale[0], "high": drawn.scale[1], "colors": drawn.colors}


def _view(record: Record, view: View, problems: list[str]) -> dict[str, Any]:
    size = view.source_hw
    try:
        path = picture_path(record, view)
        size = picture_size(path, HARD_LIMIT)[::-1] if path is not None else size
    except FoveateError as error:
        problems.append(str(error))
        path = None
    # Without a picture the patches are drawn on the model's own input, which they cover.
    hw = size or (16 * view.grid[0], 16 * view.grid[1])
    rows, columns = patch_axes(view.grid, hw, view.model_hw if size else None, view.flips, view.crop if size else None)
    return {
        "name": view.name,
        "grid": view.grid,
        "start": view.part.start,
        "picture": path is not None,
        "size": hw,
        "rows": rows.tolist(),
        "columns": columns.tolist(),
    }


def _bits(mask: np.ndarray | None) -> str | None:
    return None if mask is None else "".join("1" if bit else "0" for bit in mask)


def _list(numbers: Any) -> str:
    return ", ".join(map(str, sorted(numbers))) or "none"
