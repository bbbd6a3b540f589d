"""Writer of label pictures of a recording, `<camera>/00000.png` and `objects.json`; `data.masks.source` reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from foveate.data.masks.source import LABELS, Masks


class MaskWriter:
    """Masks of one episode, frame after frame."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._frames = 0
        self._labels: dict[str, int] = {}

    def add(self, masks: Mapping[str, Masks], images: Mapping[str, np.ndarray]) -> None:
        """The next frame.

        Args:
            masks: camera -> object -> bool [H, W]; where objects overlap, the later one is seen.
            images: camera -> its picture [H, W, 3].
        """
        from PIL import Image

        for camera, found in masks.items():
            folder = self.root / camera
            folder.mkdir(parents=True, exist_ok=True)
            picture = np.zeros(images[camera].shape[:2], np.uint8)
            for name, mask in found.items():
                picture[mask] = self._labels.setdefault(name, len(self._labels) + 1)
            Image.fromarray(picture).save(folder / f"{self._frames:05d}.png")
        self._frames += 1

    def finish(self) -> None:
        """Write which label is which object."""
        self.root.mkdir(parents=True, exist_ok=True)
        text = json.dumps({str(label): name for name, label in self._labels.items()}, ensure_ascii=False)
        (self.root / LABELS).write_text(text + "\n", encoding="utf-8")
