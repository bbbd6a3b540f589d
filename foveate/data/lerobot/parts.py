"""The files of one episode, and those of several joined: rows as parquet, pictures as PNG or H.264."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from foveate.data.lerobot.info import Feature
from foveate.data.lerobot.parquet import open_parquet, read_table
from foveate.util.video import VideoWriter

SCALARS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
ENCODER = {"g": "2", "bf": "0", "crf": "20"}
"""Every second frame a keyframe, as lerobot has it: any frame costs two decoded ones. No B-frames, so that the packets
of several episodes can be joined."""


def write_rows(
    path: Path, features: Mapping[str, Feature], arrays: Mapping[str, np.ndarray], stored: Mapping[str, Sequence[bytes]]
) -> None:
    """One episode's parquet file.

    Args:
        arrays: numeric feature and index column -> [T, ...].
        stored: camera of dtype `image` -> its T pictures, encoded.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {}
    for name, feature in features.items():
        if feature.dtype == "image":
            struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            rows = [{"bytes": data, "path": f"frame-{i:06d}.png"} for i, data in enumerate(stored[name])]
            columns[name] = pa.array(rows, struct)
        elif not feature.is_camera:
            columns[name] = _nested(arrays[name])
    columns |= {name: pa.array(arrays[name]) for name in SCALARS}
    table = pa.table(columns)
    if kinds := _hugging_face(features):
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": kinds}})})
    pq.write_table(table, path)


def _hugging_face(features: Mapping[str, Feature]) -> dict[str, Any]:
    """What `datasets` must be told, by which lerobot before 0.4 knows pictures; nothing where there is a matrix."""
    kinds: dict[str, Any] = {}
    for name, feature in features.items():
        value = {"dtype": feature.dtype, "_type": "Value"}
        if feature.dtype == "image":
            kinds[name] = {"_type": "Image"}
        elif not feature.is_camera and len(feature.shape) > 1:
            return {}
        elif not feature.is_camera:
            sequence = {"feature": value, "length": feature.shape[0], "_type": "Sequence"}
            kinds[name] = value if feature.shape == (1,) else sequence
    return kinds | {name: {"dtype": dtype, "_type": "Value"} for name, dtype in SCALARS.items()}


def join_rows(path: Path, parts: Sequence[Path]) -> None:
    """One parquet file of several, a row group each."""
    import pyarrow.parquet as pq

    with open_parquet(parts[0]) as first, pq.ParquetWriter(path, first.schema_arrow) as writer:
        for part in parts:
            writer.write_table(read_table(part), row_group_size=2**20)


def tasks_table(tasks: Mapping[str, int]) -> Any:
    """`meta/tasks.parquet`; lerobot reads it with pandas and takes the index for the texts."""
    import pyarrow as pa

    kinds = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
    about = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
            for name, (kind, numpy) in kinds.items()
        ],
        "pandas_version": "2.2.0",
    }
    table = pa.table({"task_index": list(tasks.values()), "task": list(tasks)})
    return table.replace_schema_metadata({"pandas": json.dumps(about)})


def _nested(values: np.ndarray) -> Any:
    """An Arrow array of an array: lists of a fixed length for every axis behind the first."""
    import pyarrow as pa

    column = pa.array(np.ascontiguousarray(values).reshape(-1))
    for size in reversed(values.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


def encode_picture(picture: np.ndarray) -> bytes:
    """uint8 [H, W, 3] as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def encode_video(path: Path, pictures: Iterable[np.ndarray], fps: float) -> None:
    """Pictures as an mp4 file, frame k at k / fps."""
    with VideoWriter(path, fps, codecs=("libx264",), threads=1, options=ENCODER) as video:
        for picture in pictures:
            video.add(picture)


def join_videos(path: Path, parts: Sequence[Path], fps: float) -> None:
    """One video of several, frame k at k / fps, their packets copied."""
    import av

    rate, count = Fraction(fps).limit_denominator(1000), 0
    with av.open(str(path), "w") as joined:
        stream: Any = None
        for part in parts:
            with av.open(str(part)) as source:
                origin = source.streams.video[0]
                if stream is None:
                    stream = joined.add_stream_from_template(origin)
                    stream.time_base = origin.time_base
                for packet in source.demux(origin):
                    if packet.pts is None:
                        continue
                    packet.pts = packet.dts = round(count / (rate * origin.time_base))
                    packet.duration = round(1 / (rate * origin.time_base))
                    packet.stream = stream
                    joined.mux(packet)
                    count += 1
