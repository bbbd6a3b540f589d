"""An episode's stored maps, ready to be filmed: drawn anew, so that one head and one scale hold over all frames.

    reel = Reel(EpisodeMaps.load(folder / MAPS), images, drawing)
    for frame, picture in reel.pictures("prefix", 5, None): ...     # the head that is most active over the episode

Pictures that were drawn frame by frame each have their own scale and their own most active head; filmed, they flicker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import numpy as np

from foveate.attention.maps import rank_heads
from foveate.studies.attention.archive import EpisodeMaps
from foveate.studies.attention.pictures import Drawing, grids, select
from foveate.types import AttentionMaps, Phase
from foveate.viz.attention import Sheet

Scale = Literal["episode", "frame"]


class Reel:
    """The moments of one episode.

    Args:
        images: view -> uint8 [H, W, 3] for each keyframe, the source pictures.
        drawing: its layers and heads (none: all) are those that can be filmed, and that set the scale.
        scale: "episode": one scale for all frames and heads of a layer; "frame": each picture its own.
    """

    def __init__(
        self,
        stored: EpisodeMaps,
        images: Iterable[Mapping[str, np.ndarray]],
        drawing: Drawing,
        scale: Scale = "episode",
    ) -> None:
        about = stored.about
        self._stored, self._drawing, self._scale = stored, drawing, scale
        self._frames = about.keyframes
        self._sheets = [
            Sheet(each, about.model_hw, title=about.instruction, style=drawing, crop=about.crop) for each in images
        ]
        self.most = {phase: stored.most(phase, drawing.layers, drawing.heads) for phase in stored.maps}
        """Phase -> layer -> the largest value of any frame and head."""
        self.leading = {phase: self._leading(phase) for phase in stored.maps}
        """Phase -> layer -> the head that is most active over the episode."""

    def pictures(self, phase: Phase, layer: int, head: int | None) -> Iterator[tuple[int, np.ndarray]]:
        """Keyframe and picture, uint8 [H, W, 3].

        Args:
            head: None: the most active one over the episode.
        """
        number = self.leading[phase][layer] if head is None else head
        label = f"{phase} L{layer} H{number}" + (", most active" if head is None else "")
        scale = (0.0, self.most[phase][layer]) if self._scale == "episode" else None
        for frame, sheet, maps in zip(self._frames, self._sheets, self._maps(phase), strict=True):
            values = maps.maps[maps.layers.index(layer), maps.heads.index(number)]
            yield frame, np.asarray(sheet.draw(grids(maps, values), label, scale))

    def title(self, phase: Phase, layer: int, head: int | None) -> str:
        """What a film says of itself."""
        number = self.leading[phase][layer] if head is None else head
        over = "most active over the episode, " if head is None else ""
        return f"{phase} layer {layer} head {number}, {over}one scale per {self._scale}"

    def _maps(self, phase: Phase) -> Iterator[AttentionMaps]:
        drawing = self._drawing
        return (select(self._stored.at(frame, phase), drawing.layers, drawing.heads) for frame in self._frames)

    def _leading(self, phase: Phase) -> dict[int, int]:
        ranks = rank_heads(self._maps(phase), self._drawing.activity)  # type: ignore[arg-type]  # one of `ACTIVITIES`
        return {rank.layer: rank.head for rank in reversed(ranks)}  # the most active one comes last
