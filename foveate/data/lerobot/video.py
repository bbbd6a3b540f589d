"""One video file: the time of every frame, and any of its frames exactly, with as few seeks as the order allows.

    with VideoFile(path) as video:
        for number, picture in video.frames([3, 4, 90]):
            ...

A frame is known by its presentation time stamp (pts), never by counting from where a seek landed or by
`floor(t * fps)`: so variable frame rates, B-frames and the last frame are right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from foveate.errors import FoveateError
from foveate.util.pictures import MAX_PIXELS


class FrameTable(NamedTuple):
    """The frames of a video in the order in which they are shown."""

    pts: np.ndarray
    """int64 [F]: presentation time stamps, ascending."""
    time_base: float
    """s of one step of `pts`."""
    keyframes: np.ndarray
    """int64 [K]: numbers of the frames at which decoding can begin, ascending."""

    @property
    def times(self) -> np.ndarray:
        """float64 [F], s."""
        return self.pts * self.time_base

    def keyframe_before(self, number: int) -> int:
        """The last keyframe that is not after this frame."""
        place = int(np.searchsorted(self.keyframes, number, "right")) - 1
        return int(self.keyframes[max(place, 0)])


def frame_table(path: Path) -> FrameTable:
    """Read from the packets, without decoding any.

    Raises:
        FoveateError: the file is missing, no video, or holds no frame.
    """
    with _open(path) as container:
        stream = container.streams.video[0]
        shown = [
            (packet.pts, packet.is_keyframe)
            for packet in container.demux(stream)
            if packet.pts is not None and not packet.is_discard
        ]
        base = float(stream.time_base)
    if not shown:
        raise FoveateError(f"{path}: the video holds no frame; copy the file again")
    shown.sort()
    pts, key = (np.array(column) for column in zip(*shown, strict=True))
    return FrameTable(pts.astype(np.int64), base, np.flatnonzero(key))


def told_frames(path: Path) -> int | None:
    """How many frames the file's header names, None where it does not say; errors as of `frame_table`."""
    with _open(path) as container:
        return container.streams.video[0].frames or None


class VideoFile:
    """An open video; decodes on one thread. Not to be shared between threads.

    Attributes:
        decoded: frames that have been decoded, those in between included.
        seeks: how often decoding began anew.
    """

    def __init__(self, path: Path, table: FrameTable | None = None) -> None:
        """
        Args:
            table: the file's own, where it is known already.
        """
        self.path, self.table = path, frame_table(path) if table is None else table
        self.decoded = self.seeks = 0
        self._numbers = {int(pts): number for number, pts in enumerate(self.table.pts)}
        self._container = _open(path)
        self._stream = self._container.streams.video[0]
        self._stream.codec_context.thread_count = 1
        if self._stream.width * self._stream.height > MAX_PIXELS:
            self.close()
            raise FoveateError(
                f"{path}: {self._stream.width} x {self._stream.height} are more than {MAX_PIXELS:,} pixels"
            )
        self._running: Iterator[Any] = iter(())
        self._next = len(self.table.pts)
        """The frame that the decoder gives next; behind the end: none before a seek."""

    def frames(self, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Number and picture, uint8 [H, W, 3] RGB, of these frames: ascending, each once.

        Raises:
            FoveateError: a frame is not in the file, or cannot be decoded; names the file and the frame.
        """
        wanted = sorted(set(numbers))
        if wanted and not 0 <= wanted[0] <= wanted[-1] < len(self.table.pts):
            raise FoveateError(f"{self.path}: frames {wanted[0]} to {wanted[-1]} wanted, it has {len(self.table.pts)}")
        for number in wanted:
            try:
                yield number, self._frame(number).to_ndarray(format="rgb24")
            except FoveateError:
                raise
            except Exception as error:  # whatever a decoder raises of a damaged file
                self._next = len(self.table.pts)
                raise FoveateError(
                    f"{self.path}: frame {number} cannot be decoded ({error}); copy the file again"
                ) from error

    def _frame(self, number: int) -> Any:
        key = self.table.keyframe_before(number)
        if not self._next <= number or key > self._next:
            self._seek(key)
        while (frame := next(self._running, None)) is not None:
            self.decoded += 1
            found = self._numbers.get(frame.pts)
            if found is None:
                continue
            self._next = found + 1
            if found == number:
                return frame
            if found > number:  # the seek landed behind it
                if key == 0:
                    break
                key = self.table.keyframe_before(key - 1)
                self._seek(key)
        raise FoveateError(
            f"{self.path}: frame {number} of {len(self.table.pts)} is not in the stream; copy the file again"
        )

    def _seek(self, key: int) -> None:
        self.seeks += 1
        self._container.seek(int(self.table.pts[key]), stream=self._stream, backward=True)
        self._running, self._next = self._container.decode(self._stream), key

    def close(self) -> None:
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(path: Path) -> Any:
    import av

    if not path.is_file():
        raise FoveateError(f"{path}: no such video; copy the data set again")
    try:
        container = av.open(str(path))
    except Exception as error:
        raise FoveateError(f"{path}: cannot be read as a video ({error}); copy the file again") from error
    if not container.streams.video:
        container.close()
        raise FoveateError(f"{path}: holds no video stream")
    return container
