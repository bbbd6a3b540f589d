"""The pictures of one keyframe from its maps, with or without the model at hand.

    <episode>/00008/prefix_L5_attn_vis_max.jpg        the most active head of layer 5, in this frame
    <episode>/00008/L5_prefix_heads/head_03.jpg       every head

The same with `suffix`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from foveate.attention.maps import ACTIVITIES, Activity
from foveate.errors import FoveateError, unknown
from foveate.studies.attention.archive import About
from foveate.studies.attention.frame_pictures import draw_phase
from foveate.types import AttentionMaps, Phase
from foveate.viz.attention import Sheet, Style


@dataclass(frozen=True)
class Drawing:
    """Which pictures of a keyframe are drawn, and how."""

    layers: tuple[int, ...] = ()
    """Empty: all that the maps hold."""
    heads: tuple[int, ...] = ()
    """Empty: all that the maps hold."""
    detail: bool = True
    """Draw each head, besides the most active one of each layer."""
    activity: Activity = "variance"
    """What makes a head the most active one."""
    style: Style = field(default_factory=Style)
    quality: int = 85
    """Of the JPEGs, 1 to 95."""

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 95:
            raise FoveateError(f"quality: expected 1 to 95, got {self.quality}")
        if self.activity not in ACTIVITIES:
            raise unknown("activity", self.activity, ACTIVITIES)


def draw_keyframe(
    folder: Path,
    images: Mapping[str, np.ndarray],
    maps: Mapping[Phase, AttentionMaps],
    drawing: Drawing,
    *,
    model_hw: tuple[int, int],
    title: str,
) -> None:
    """All pictures of one keyframe.

    Args:
        folder: of the keyframe; made if need be.
        images: view -> uint8 [H, W, 3], the source pictures.
        maps: of views that `images` holds.
        title: the instruction.
    """
    sheet = Sheet(images, model_hw, title=title, style=drawing.style)
    for found in maps.values():
        chosen = select(found, drawing.layers, drawing.heads)
        draw_phase(folder, sheet, chosen, by=drawing.activity, heads=drawing.detail, quality=drawing.quality)


def select(maps: AttentionMaps, layers: Sequence[int], heads: Sequence[int]) -> AttentionMaps:
    """The maps of these layers and heads; empty: all.

    Raises:
        FoveateError: the maps hold no such layer or head; it says which they hold.
    """
    chosen = {}
    for kind, wanted, known in (("layer", layers, maps.layers), ("head", heads, maps.heads)):
        for number in wanted:
            if number not in known:
                raise FoveateError(
                    f"{kind} {number}: the maps hold {len(known)} {kind}s, {', '.join(map(str, known))}; choose among "
                    "them, or run `foveate attn episodes` again into another folder"
                )
        chosen[kind] = tuple(wanted) or known
    rows = [maps.layers.index(layer) for layer in chosen["layer"]]
    columns = [maps.heads.index(head) for head in chosen["head"]]
    return replace(maps, layers=chosen["layer"], heads=chosen["head"], maps=maps.maps[np.ix_(rows, columns)])


def named_views(maps: AttentionMaps, names: Mapping[str, str]) -> AttentionMaps:
    """The maps of the views that are in `names` (model view -> observation view), under their observation names."""
    kept = [i for i, view in enumerate(maps.views) if view in names]
    views = tuple(names[maps.views[i]] for i in kept)
    return replace(maps, views=views, maps=np.ascontiguousarray(maps.maps[..., kept, :, :]), valid=maps.valid[kept])


def marker_text(about: About, drawn: Sequence[int]) -> str:
    """The marker file `pi05.md` of a finished episode.

    Args:
        drawn: the layers with pictures.
    """
    views = ", ".join(f"{view} from {camera}" for view, camera in about.views.items())
    return (
        f"# {about.episode}\n\n"
        f"- Episode: {about.episode.rpartition('/')[2]}\n"
        f"- Outcome: {about.outcome}\n"
        f"- Total frames: {about.total_frames}\n"
        f"- Keyframes: {list(about.keyframes)}\n"
        f"- Instruction: {about.instruction}\n"
        f"- Policy: {about.policy}\n"
        f"- Layers: {', '.join(map(str, drawn))}\n"
        f"- Views: {views}\n"
    )
