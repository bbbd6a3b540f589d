"""Parquet files as NumPy arrays; knows nothing of episodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from foveate.errors import FoveateError


def open_parquet(path: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile`.

    Raises:
        FoveateError: it is missing or damaged; names the file.
    """
    import pyarrow.parquet as pq

    if not path.is_file():
        raise FoveateError(f"{path}: no such file; copy the data set again")
    try:
        return pq.ParquetFile(path)
    except Exception as error:  # pyarrow raises many kinds for a damaged file
        raise FoveateError(f"{path}: cannot be read as parquet ({error}); copy the file again") from error


def read_table(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> Any:
    """A `pyarrow.Table` of the columns whose names are wanted; errors as of `open_parquet`."""
    with open_parquet(path) as file:
        names = [name for name in file.schema_arrow.names if wanted(name)]
        try:
            return file.read(columns=names)
        except Exception as error:
            raise FoveateError(f"{path}: cannot be read as parquet ({error}); copy the file again") from error


def as_array(column: Any) -> np.ndarray:
    """A column of numbers, or of lists of one length (nested ones alike): [T] or [T, ...].

    Raises:
        ValueError: its lists differ in length, or values are missing.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values = values.storage if isinstance(values, pa.ExtensionArray) else values
    shape = [len(values)]
    while pa.types.is_nested(values.type):
        lengths = pc.list_value_length(values).unique()
        if len(lengths) != 1 or not lengths[0].is_valid:
            raise ValueError(f"its rows are lists of the lengths {lengths.to_pylist()[:6]}, expected one length")
        shape.append(lengths[0].as_py())
        values = values.flatten()
    if values.null_count:
        raise ValueError(f"it lacks {values.null_count} values")
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(shape)


def row_groups(path: Path) -> np.ndarray:
    """int64 [G + 1]: the first row of every row group, and the number of rows."""
    with open_parquet(path) as file:
        meta = file.metadata
        return np.cumsum([0, *(meta.row_group(i).num_rows for i in range(meta.num_row_groups))])
