"""The pictures of one inference's attention maps, under the names that users' tools read.

    draw_phase(folder, sheet, maps)
        prefix_L5_attn_vis_max.jpg        the most active head of layer 5
        L5_prefix_heads/head_07.jpg       every head

`suffix` maps alike. Each picture has a colour scale of its own, from 0 to its largest value: heads differ by orders
of magnitude.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from foveate.attention.maps import Activity, averaged, most_active_heads
from foveate.types import AttentionMaps
from foveate.viz.attention import Sheet, save_jpeg


def grids(maps: AttentionMaps, values: np.ndarray) -> dict[str, np.ndarray]:
    """View -> float32 [rows, columns], NaN where no patch was: what `Sheet.draw` takes.

    Args:
        values: [view, rows, columns], one head's. Absent views are left out.
    """
    seen = np.where(maps.valid, values.astype(np.float32), np.float32("nan"))
    return {view: seen[v] for v, view in enumerate(maps.views) if maps.valid[v].any()}


def draw_phase(
    folder: Path, sheet: Sheet, maps: AttentionMaps, *, by: Activity = "variance", heads: bool = True, quality: int = 85
) -> dict[int, int]:
    """Draw every layer: its most active head, and each head apart; returns layer -> most active head.

    Args:
        maps: steps or tokens in a leading axis are averaged.
        heads: False: the most active head alone.
        quality: of the JPEG files, 1 to 95.
    """
    maps = averaged(maps)
    best = most_active_heads(maps, by)
    folder.mkdir(parents=True, exist_ok=True)
    for i, layer in enumerate(maps.layers):
        detail = folder / f"L{layer}_{maps.phase}_heads"
        if heads:
            detail.mkdir(exist_ok=True)
        for j, head in enumerate(maps.heads):
            if not heads and head != best[layer]:
                continue
            picture = sheet.draw(grids(maps, maps.maps[i, j]), f"{maps.phase} L{layer} H{head}")
            if heads:
                save_jpeg(detail / f"head_{head:02d}.jpg", picture, quality)
            if head == best[layer]:
                save_jpeg(folder / f"{maps.phase}_L{layer}_attn_vis_max.jpg", picture, quality)
    return best


def draw_words(
    folder: Path, sheet: Sheet, words: Mapping[str, AttentionMaps], *, by: Activity = "variance", quality: int = 85
) -> None:
    """`L5_token_bowl.jpg`: where a word looks, by the most active head of each layer for that word."""
    folder.mkdir(parents=True, exist_ok=True)
    for word, maps in words.items():
        best = most_active_heads(maps, by)
        for i, layer in enumerate(maps.layers):
            values = maps.maps[i, maps.heads.index(best[layer])]
            picture = sheet.draw(grids(maps, values), f"L{layer} H{best[layer]} {word}")
            save_jpeg(folder / f"L{layer}_token_{'_'.join(word.split())}.jpg", picture, quality)


def draw_steps(folder: Path, sheet: Sheet, maps: AttentionMaps, heads: Mapping[int, int], *, quality: int = 85) -> None:
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
                quality,
            )
