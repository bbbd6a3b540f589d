"""Object masks from a local detector: transformers' zero-shot object detection (OWL-ViT, Grounding DINO and their kin).

    source = DetectorMasks("google/owlv2-base-patch16-ensemble", ["cube", "bowl"], min_score=0.2)
    source.at("hand_camera", 8, image)

A detector gives boxes: the mask of an object is the whole of its boxes, which overstates it. Nothing is loaded before
the first picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from foveate.data.masks.source import Masks, box_mask
from foveate.errors import FoveateError


class DetectorMasks:
    """Boxes of the objects named, as masks."""

    def __init__(self, model: Any, objects: Sequence[str], min_score: float = 0.1, device: str = "cpu") -> None:
        """
        model: a name or folder that transformers can load, or a pipeline of it.
        objects: what to look for, in plain words.
        min_score: detections below it are passed over.
        """
        if not objects:
            raise FoveateError("a detector must be told what to look for: --objects cube,bowl")
        self.model, self.objects, self.min_score, self.device = model, list(objects), min_score, device

    def at(self, camera: str, frame: int, image: np.ndarray) -> Masks:
        from PIL import Image

        masks: Masks = {}
        for found in self._detect(Image.fromarray(image), candidate_labels=self.objects, threshold=self.min_score):
            box = [found["box"][key] for key in ("xmin", "ymin", "xmax", "ymax")]
            mask = box_mask(box, image.shape[:2])
            masks[found["label"]] = masks[found["label"]] | mask if found["label"] in masks else mask
        return masks

    @cached_property
    def _detect(self) -> Any:
        if callable(self.model):
            return self.model
        try:
            from transformers import pipeline

            return pipeline("zero-shot-object-detection", model=self.model, device=self.device)
        except (ImportError, OSError, ValueError) as error:
            text = " ".join(str(error).split())
            raise FoveateError(f"detector {self.model!r} cannot be loaded by transformers: {text[:300]}") from error
