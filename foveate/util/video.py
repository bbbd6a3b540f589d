"""mp4, webm (VP9) and avi files from frames, with PyAV; knows nothing of policies or episodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from foveate.errors import FoveateError, unknown

CODECS = {".mp4": ("libx264", "mpeg4"), ".webm": ("libvpx-vp9",), ".avi": ("mpeg4",)}
"""By the file's ending, in order of preference: H.264 plays everywhere, but a PyAV build may come without it."""
OPTIONS = {
    # Constant quality in the encoder's fastest mode: an eighth of the time of its default, at half again the bytes and
    # 0.6 dB less.
    "libvpx-vp9": {"crf": "32", "b": "0", "deadline": "realtime", "cpu-used": "8", "row-mt": "1"},
    "mpeg4": {"qscale": "4"},
}


class VideoWriter:
    """Writes frames as they come; use as a context manager.

    Frames are uint8 [H, W, 3], RGB, all of one size. An odd height or width loses its last row or
    column, because the pixel format of the codecs wants even sizes.

    Args:
        path: its ending says the format: `.mp4`, `.webm` or `.avi`.
        fps: frames per second of playback.
        codecs: tried in this order; None: those of the format.
        options: of the encoder; None: those in `OPTIONS`.
        threads: of the encoder; None: as many as it likes.
        title: stands in the file's metadata.
    Raises:
        FoveateError: an unknown format, no codec is there, or a frame has another size than the first.
    """

    def __init__(
        self,
        path: Path | str,
        fps: float,
        codecs: tuple[str, ...] | None = None,
        threads: int | None = None,
        title: str = "",
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.path, self._fps, self._threads, self._title = Path(path), fps, threads, title
        self._options = options
        if codecs is None and self.path.suffix not in CODECS:
            raise unknown("video format", self.path.suffix, CODECS)
        self._codecs = codecs or CODECS[self.path.suffix]
        self._container: Any = None
        self._stream: Any = None

    def add(self, frame: np.ndarray) -> None:
        import av

        frame = np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
        if self._container is None:
            self._open(frame)
        if frame.shape[:2] != (self._stream.height, self._stream.width):
            raise FoveateError(
                f"{self.path}: expected frames of {self._stream.height}x{self._stream.width}, got {frame.shape}"
            )
        for packet in self._stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
            self._container.mux(packet)

    def _open(self, frame: np.ndarray) -> None:
        from fractions import Fraction

        import av

        codec = next((name for name in self._codecs if _encodes(name)), None)
        if codec is None:
            raise FoveateError(f"{self.path}: PyAV has none of the encoders {', '.join(self._codecs)}; pip install av")
        self._container = av.open(str(self.path), "w")
        if self._title:
            self._container.metadata["title"] = self._title
        self._stream = self._container.add_stream(codec, rate=Fraction(self._fps).limit_denominator(1000))
        self._stream.height, self._stream.width = frame.shape[:2]
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = OPTIONS.get(codec, {}) if self._options is None else dict(self._options)
        if self._threads is not None:
            self._stream.codec_context.thread_count = self._threads

    def close(self) -> None:
        if self._container is None:
            return
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()
        self._container = None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _encodes(codec: str) -> bool:
    import av

    try:
        av.codec.Codec(codec, "w")
    except ValueError:
        return False
    return True


def title_in(path: Path | str) -> str:
    """The title in a video's metadata; empty where it has none, or cannot be read."""
    import av

    try:
        with av.open(str(path)) as container:
            return next((value for name, value in container.metadata.items() if name.lower() == "title"), "")
    except (OSError, av.FFmpegError):
        return ""


def write_video(path: Path | str, frames: Iterable[np.ndarray], fps: float) -> None:
    """Write all frames (uint8 [H, W, 3], RGB) to one file."""
    with VideoWriter(path, fps) as video:
        for frame in frames:
            video.add(frame)


def side_by_side(images: Mapping[str, np.ndarray]) -> np.ndarray:
    """Views next to each other in their order, lower ones padded with black: uint8 [max H, sum W, 3]."""
    height = max(image.shape[0] for image in images.values())
    padded = [np.pad(image, ((0, height - image.shape[0]), (0, 0), (0, 0))) for image in images.values()]
    return np.concatenate(padded, axis=1)
