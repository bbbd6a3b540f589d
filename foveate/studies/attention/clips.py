"""Videos of an episode from its drawn pictures, in the folders that users of this analysis have.

    <episode>/L05_prefix_max.webm         the most active head of layer 5, frame by frame
    <episode>/L5/H03_prefix.webm          one head
    <episode>/instruction.txt

The same with `suffix`. What there is to film is read from the names of the pictures (see `pictures.py`). Where the maps
and the camera's pictures are there, films are drawn from them anew (`reel.py`): one head and one scale for the whole
episode. Pictures that other tools drew under these names become videos as they are. NumPy, Pillow and PyAV; no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from foveate.errors import FoveateError, unknown
from foveate.studies.attention.reel import Reel, Scale
from foveate.util.files import draft
from foveate.util.pictures import ImageError, read_picture
from foveate.util.video import VideoWriter, title_in

Format = Literal["webm", "mp4", "avi"]
SCALES = ("episode", "frame")
STRIP = 24
"""Height of the line burnt in, in pixels."""


@dataclass(frozen=True)
class Filming:
    """How keyframes become videos."""

    format: Format = "webm"
    """webm (VP9), mp4 (H.264) or avi (MPEG-4)."""
    fps: float = 4.0
    """Keyframes per second of playback."""
    burn_in: bool = False
    """Write the frame's number below every picture; the instruction stands above it."""
    scale: Scale = "episode"
    """Colour scale of videos: one for an episode's frames and heads of a layer, or each frame its own."""

    def __post_init__(self) -> None:
        if self.format not in ("webm", "mp4", "avi"):
            raise FoveateError(f"format: expected webm, mp4 or avi, got {self.format!r}")
        if not 0 < self.fps <= 120:
            raise FoveateError(f"fps: expected more than 0 and at most 120, got {self.fps}")
        if self.scale not in SCALES:
            raise unknown("scale", self.scale, SCALES)


@dataclass(frozen=True)
class Clip:
    """One video to make."""

    name: str
    """Path in the episode's video folder, without ending."""
    picture: str
    """Path of its picture in each keyframe's folder."""
    phase: str
    layer: int
    head: int | None = None
    """None: the most active one."""


def keyframes_of(folder: Path) -> list[int]:
    """Numbers of the keyframes that an episode's folder holds, ascending."""
    return sorted(int(path.name) for path in folder.iterdir() if path.is_dir() and re.fullmatch(r"\d{5,}", path.name))


def clips_of(folder: Path) -> list[Clip]:
    """The videos that an episode's pictures give, summaries first.

    Raises:
        FoveateError: there are no pictures.
    """
    frames = keyframes_of(folder)
    first = folder / f"{frames[0]:05d}" if frames else folder
    clips = list(_clips(first)) if frames else []
    if not clips:
        raise FoveateError(
            f"{folder}: no attention pictures in it; expected 00000/prefix_L1_attn_vis_max.jpg and so on"
        )
    return clips


def _clips(frame: Path) -> Iterator[Clip]:
    names = sorted(path.name for path in frame.iterdir())
    found = [(int(m[2]), m[1]) for name in names if (m := re.fullmatch(r"(\w+)_L(\d+)_attn_vis_max\.jpg", name))]
    for layer, phase in sorted(found):
        yield clip_of(phase, layer, None)
    folders = [(int(m[1]), m[2], m[0]) for name in names if (m := re.fullmatch(r"L(\d+)_(\w+)_heads", name))]
    for layer, phase, name in sorted(folders):
        for path in sorted((frame / name).glob("head_*.jpg")):
            if path.stem.removeprefix("head_").isdecimal():
                yield clip_of(phase, layer, int(path.stem.removeprefix("head_")))


def clip_of(phase: str, layer: int, head: int | None) -> Clip:
    """Under the names that users have."""
    if head is None:
        return Clip(f"L{layer:02d}_{phase}_max", f"{phase}_L{layer}_attn_vis_max.jpg", phase, layer)
    return Clip(f"L{layer}/H{head:02d}_{phase}", f"L{layer}_{phase}_heads/head_{head:02d}.jpg", phase, layer, head)


def film(folder: Path, out: Path, clip: Clip, filming: Filming, reel: Reel | None = None) -> Path:
    """Make one video, whole or not at all; returns its path.

    Args:
        folder: of the episode's pictures.
        out: of its videos.
        reel: draws the frames anew; None: the pictures are taken as they are.
    """
    path = out / f"{clip.name}.{filming.format}"
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = _drawn(folder, clip) if reel is None else reel.pictures(clip.phase, clip.layer, clip.head)  # type: ignore[arg-type]
    # One thread each: the videos of an episode are made side by side.
    with (
        draft(path, suffix=f".draft{path.suffix}") as begun,
        VideoWriter(begun, filming.fps, threads=1, title=title_of(clip, filming, reel)) as video,
    ):
        for frame, picture in frames:
            video.add(burnt_in(picture, f"frame {frame:05d}") if filming.burn_in else picture)
    return path


def title_of(clip: Clip, filming: Filming, reel: Reel | None) -> str:
    """What a film says of itself, in its metadata: which head, which scale."""
    said = "as drawn" if reel is None else reel.title(clip.phase, clip.layer, clip.head)  # type: ignore[arg-type]
    return f"{clip.name}: {said}{', numbered' if filming.burn_in else ''}, {filming.fps:g} fps"


def _drawn(folder: Path, clip: Clip) -> Iterator[tuple[int, np.ndarray]]:
    for frame in keyframes_of(folder):
        yield frame, _read(folder / f"{frame:05d}" / clip.picture)


def is_fresh(
    folder: Path, out: Path, clip: Clip, filming: Filming, frames: Sequence[int], reel: Reel | None = None
) -> bool:
    """There is a video of the same head, scale and speed, and none of its pictures is newer."""
    path = out / f"{clip.name}.{filming.format}"
    pictures = (folder / f"{frame:05d}" / clip.picture for frame in frames)
    return (
        path.exists()
        and all(p.stat().st_mtime <= path.stat().st_mtime for p in pictures if p.exists())
        and title_in(path) == title_of(clip, filming, reel)
    )


def burnt_in(picture: np.ndarray, mark: str) -> np.ndarray:
    """The picture with a line below it: uint8 [H + STRIP, W, 3]."""
    from PIL import Image, ImageDraw

    from foveate.viz.attention import GAP
    from foveate.viz.drawing import font

    canvas = Image.new("RGB", (picture.shape[1], picture.shape[0] + STRIP), (28, 32, 38))
    canvas.paste(Image.fromarray(picture))
    draw, y = ImageDraw.Draw(canvas), picture.shape[0] + STRIP / 2
    draw.text((GAP, y), mark, (255, 214, 102), font(13), anchor="lm")
    return np.asarray(canvas)


def _read(path: Path) -> np.ndarray:
    try:
        return read_picture(path)
    except ImageError as error:
        raise FoveateError(f"{path}: not a readable picture ({error}); draw it again: `foveate attn render`") from error
