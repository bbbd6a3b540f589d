"""The pictures of one moment's attention maps, under the names that users' tools read. No model is needed.

    <folder>/prefix_L5_attn_vis_max.jpg        the most active head of layer 5, in this moment
    <folder>/L5_prefix_heads/head_03.jpg       every head

The same with `suffix`. Each picture has a colour scale of its own, from 0 to its largest value: heads differ by orders
of magnitude.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from foveate.attention.maps import ACTIVITIES, averaged, most_active_heads
from foveate.errors import FoveateError, unknown
from foveate.studies.attention.archive import About
from foveate.types import AttentionMaps, Phase
from foveate.viz.attention import Sheet, Style, save_jpeg


@dataclass(frozen=True)
class Drawing(Style):
    """Which pictures of a moment are drawn, and how."""

    layers: tuple[int, ...] = ()
    """Layers to draw; empty: all that the maps hold."""
    heads: tuple[int, ...] = ()
    """Heads to draw; empty: all that the maps hold."""
    detail: bool = True
    """Draw every head, besides the most active one of each layer."""
    activity: str = "variance"
    """What makes a head the most active one: the variance or the entropy of its map."""
    quality: int = 85
    """Quality of the JPEGs, 1 to 95."""

    def __post_init__(self) -> None:
        super().__post_init__()
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
    crop: float | None = None,
    most: Mapping[Phase, Mapping[int, float]] | None = None,
) -> None:
    """All pictures of one keyframe.

    Args:
        folder: of the keyframe; made if need be.
        images: view -> uint8 [H, W, 3], the source pictures.
        maps: of views that `images` holds.
        title: the instruction.
        crop: as `Sheet` takes it.
        most: phase -> layer -> value of the last colour; None: the largest of each picture.
    """
    sheet = Sheet(images, model_hw, title=title, style=drawing, crop=crop)
    for phase, found in maps.items():
        chosen = select(found, drawing.layers, drawing.heads)
        draw_phase(folder, sheet, chosen, drawing, most[phase] if most else None)


def grids(maps: AttentionMaps, values: np.ndarray) -> dict[str, np.ndarray]:
    """View -> float32 [rows, columns], NaN where no patch was: what `Sheet.draw` takes.

    Args:
        values: [view, rows, columns], one head's. Absent views are left out.
    """
    seen = np.where(maps.valid, values.astype(np.float32), np.float32("nan"))
    return {view: seen[v] for v, view in enumerate(maps.views) if maps.valid[v].any()}


def draw_phase(
    folder: Path, sheet: Sheet, maps: AttentionMaps, drawing: Drawing, most: Mapping[int, float] | None = None
) -> dict[int, int]:
    """Draw every layer: its most active head, and each head apart; returns layer -> most active head.

    Args:
        maps: steps or tokens in a leading axis are averaged; all their layers and heads are drawn.
        most: layer -> value of the last colour; None: the largest of each picture.
    """
    maps = averaged(maps)
    best = most_active_heads(maps, drawing.activity)  # type: ignore[arg-type]  # it is one of `ACTIVITIES`
    folder.mkdir(parents=True, exist_ok=True)
    for i, layer in enumerate(maps.layers):
        detail = folder / f"L{layer}_{maps.phase}_heads"
        if drawing.detail:
            detail.mkdir(exist_ok=True)
        for j, head in enumerate(maps.heads):
            if not drawing.detail and head != best[layer]:
                continue
            scale = (0.0, most[layer]) if most else None
            picture = sheet.draw(grids(maps, maps.maps[i, j]), f"{maps.phase} L{layer} H{head}", scale)
            if drawing.detail:
                save_jpeg(detail / f"head_{head:02d}.jpg", picture, drawing.quality)
            if head == best[layer]:
                save_jpeg(folder / f"{maps.phase}_L{layer}_attn_vis_max.jpg", picture, drawing.quality)
    return best


def draw_words(folder: Path, sheet: Sheet, words: Mapping[str, AttentionMaps], drawing: Drawing) -> None:
    """`L5_token_bowl.jpg`: where a word looks, by the most active head of each layer for that word."""
    folder.mkdir(parents=True, exist_ok=True)
    for word, maps in words.items():
        best = most_active_heads(maps, drawing.activity)  # type: ignore[arg-type]  # it is one of `ACTIVITIES`
        for i, layer in enumerate(maps.layers):
            values = maps.maps[i, maps.heads.index(best[layer])]
            picture = sheet.draw(grids(maps, values), f"L{layer} H{best[layer]} {word}")
            save_jpeg(folder / f"L{layer}_token_{'_'.join(word.split())}.jpg", picture, drawing.quality)


def draw_steps(folder: Path, sheet: Sheet, maps: AttentionMaps, heads: Mapping[int, int], drawing: Drawing) -> None:
    """`L5_suffix_steps/step_03.jpg`: one head of each layer in every denoising step, all steps on one scale.

    Args:
        maps: per step (`AttentionRequest.steps` "each").
        heads: layer -> head.
    """
    for i, layer in enumerate(maps.layers):
        values = maps.maps[:, i, maps.heads.index(heads[layer])]
        detail = folder / f"L{layer}_{maps.phase}_steps"
        detail.mkdir(parents=True, exist_ok=True)
        for step, here in enumerate(values):
            label = f"L{layer} H{heads[layer]} step {step}"
            save_jpeg(
                detail / f"step_{step:02d}.jpg",
                sheet.draw(grids(maps, here), label, (0.0, float(values.max()))),
                drawing.quality,
            )


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
