"""Masks of objects in the frames of an episode, from wherever they come.

    source = open_masks(episode / "recordings/masks")
    source.at("hand_camera", 8, image)              # {"cube": bool [H, W], ...}, or None: nothing known of this frame

A folder holds, for each camera and frame, one of

    <camera>/00008.png           a picture of labels; `objects.json` in the folder names them: {"1": "cube", ...};
                                 without that file all that is not 0 is one `object`
    <camera>/00008.npz           arrays bool [H, W], named as the objects
    <camera>/<object>/00008.png  a picture per object, inside where it is not 0
    <camera>/00008.json          a detection service's answer: {"objects": [{"category", "mask" or "bbox", "score"}]}

A JSON file holds masks of many frames as COCO has them: `images` (file_name `<camera>/00008.jpg`, whatever stands
before), `annotations` (polygons, compressed or plain RLE; a bbox where there is none) and `categories`. Objects of one
name in one picture are one mask.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from foveate.data.masks.rle import decode_segmentation
from foveate.errors import FoveateError
from foveate.util.files import read_text
from foveate.util.pictures import ImageError, read_labels

Masks = dict[str, np.ndarray]
"""Object -> bool [H, W]."""
LABELS = "objects.json"


class MaskSource(Protocol):
    """Where masks come from."""

    def at(self, camera: str, frame: int, image: np.ndarray) -> Masks | None:
        """The objects of one picture (uint8 [H, W, 3]); None: nothing is known of it, {}: there is none in it."""
        ...


def open_masks(path: str | Path) -> MaskSource:
    """A folder or a COCO file."""
    path = Path(path)
    if path.is_dir():
        return FolderMasks(path)
    if path.suffix == ".json" and path.is_file():
        return CocoMasks(path)
    raise FoveateError(f"masks {path}: no such folder or .json file")


def check_size(masks: Masks, image: np.ndarray, where: str) -> Masks:
    """The masks, all of the picture's size.

    Raises:
        FoveateError: one is not; masks are never stretched.
    """
    for name, mask in masks.items():
        if mask.shape != image.shape[:2]:
            raise FoveateError(
                f"{where}: the mask of {name!r} has {mask.shape[0]} x {mask.shape[1]} pixels (height x width), the "
                f"frame {image.shape[0]} x {image.shape[1]}; make masks of the very frames, a stretched mask lies"
            )
    return masks


class FolderMasks:
    """Masks of one episode in files; see the module for their names."""

    def __init__(self, root: Path) -> None:
        self.root = root
        labels = root / LABELS
        self._labels = {int(k): str(v) for k, v in _read_json(labels).items()} if labels.exists() else None

    def at(self, camera: str, frame: int, image: np.ndarray) -> Masks | None:
        folder = self.root / camera
        stem, where = folder / f"{frame:05d}", f"{folder.name}/{frame:05d} of {self.root}"
        if (path := stem.with_suffix(".png")).exists():
            found = self._split(_read_picture(path), path)
        elif (path := stem.with_suffix(".npz")).exists():
            found = _read_npz(path)
        elif (path := stem.with_suffix(".json")).exists():
            found = read_detections(_read_json(path), image.shape[:2], str(path))
        else:
            paths = sorted(folder.glob(f"*/{frame:05d}.png"))
            if not paths:
                return None
            found = {path.parent.name: _read_picture(path) > 0 for path in paths}
        return check_size(found, image, where)

    def _split(self, labels: np.ndarray, path: Path) -> Masks:
        if self._labels is None:
            return {"object": labels > 0}
        unknown = sorted(set(np.unique(labels).tolist()) - {0, *self._labels})
        if unknown:
            raise FoveateError(f"{path}: holds the labels {unknown}, which {self.root / LABELS} does not name")
        return {name: labels == number for number, name in self._labels.items() if (labels == number).any()}


class CocoMasks:
    """Masks of one episode in one COCO file."""

    def __init__(self, path: Path) -> None:
        self.path, document = path, _read_json(path)
        try:
            names = {category["id"]: str(category["name"]) for category in document["categories"]}
            keys = {image["id"]: (_place(str(image["file_name"]), path), image) for image in document["images"]}
            self._found: dict[tuple[str, int], list[tuple[str, Mapping[str, Any]]]] = {k: [] for k, _ in keys.values()}
            self._sizes = {key: (image.get("height"), image.get("width")) for key, image in keys.values()}
            for note in document["annotations"]:
                self._found[keys[note["image_id"]][0]].append((names[note["category_id"]], note))
        except (KeyError, TypeError) as error:
            raise FoveateError(
                f"masks {path}: expected COCO's images (id, file_name), annotations (image_id, category_id, "
                f"segmentation) and categories (id, name); {error!r}"
            ) from error

    def at(self, camera: str, frame: int, image: np.ndarray) -> Masks | None:
        notes = self._found.get((camera, frame))
        if notes is None:
            return None
        height, width = self._sizes[camera, frame]
        hw = (height or image.shape[0], width or image.shape[1])
        shapes = ((name, note.get("segmentation"), _xyxy(note.get("bbox"))) for name, note in notes)
        where = f"{camera}, frame {frame} of {self.path}"
        return check_size(_merge(shapes, hw, where), image, where)


def read_detections(document: Any, hw: tuple[int, int], where: str) -> Masks:
    """The answer of a detection service, such as DINO-X: `objects`, each with `category` (or `caption`, `label`), and a
    `mask` (RLE) or else a `bbox` [x0, y0, x1, y1] in pixels, whose whole rectangle is taken."""
    try:
        objects = document["objects"]
        shapes = [
            (str(next(o[key] for key in ("category", "label", "caption") if o.get(key))), o.get("mask"), o.get("bbox"))
            for o in objects
        ]
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise FoveateError(
            f'{where}: expected {{"objects": [{{"category": ..., "mask": {{"size", "counts"}} or "bbox"}}]}}'
        ) from error
    return _merge(shapes, hw, where)


def box_mask(box: Iterable[float], hw: tuple[int, int]) -> np.ndarray:
    """bool [H, W]: the pixels whose centre lies in x0, y0, x1, y1."""
    x0, y0, x1, y1 = box
    x, y = np.arange(hw[1]) + 0.5, np.arange(hw[0])[:, None] + 0.5
    return (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)


def _merge(shapes: Iterable[tuple[str, Any, Any]], hw: tuple[int, int], where: str) -> Masks:
    """Masks of (name, segmentation, box), equal names joined."""
    masks: Masks = {}
    for name, segmentation, box in shapes:
        try:
            if segmentation:
                mask = decode_segmentation(segmentation, hw)
            elif box:
                mask = box_mask(box, hw)
            else:
                raise FoveateError("neither a mask nor a bbox")
        except FoveateError as error:
            raise FoveateError(f"{where}: object {name!r}: {error}") from error
        before = masks.get(name)
        if before is not None and before.shape != mask.shape:
            raise FoveateError(f"{where}: two masks of {name!r} have the sizes {before.shape} and {mask.shape}")
        masks[name] = mask if before is None else before | mask
    return masks


def _xyxy(box: Any) -> Any:
    """COCO's x, y, width, height -> corners."""
    return box and (box[0], box[1], box[0] + box[2], box[1] + box[3])


def _place(name: str, path: Path) -> tuple[str, int]:
    """`any/hand_camera/00008.jpg` -> ("hand_camera", 8)."""
    file = PurePosixPath(name.replace("\\", "/"))
    number = re.search(r"(\d+)$", file.stem)
    if not number or not file.parent.name:
        raise FoveateError(f"masks {path}: file_name {name!r} tells no camera and frame; expected <camera>/00008.jpg")
    return file.parent.name, int(number[1])


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise FoveateError(f"{path}: not readable JSON ({error})") from error


def _read_picture(path: Path) -> np.ndarray:
    try:
        return read_labels(path)
    except ImageError as error:
        raise FoveateError(f"{path}: not a readable picture ({error})") from error


def _read_npz(path: Path) -> Masks:
    try:
        with np.load(path) as file:
            return {name: file[name].astype(bool) for name in file.files}
    except (OSError, ValueError, EOFError) as error:
        raise FoveateError(f"{path}: not readable arrays ({error})") from error
