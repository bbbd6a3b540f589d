"""The folder that a conversion makes: all of it or nothing, and never in place of anything else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.convert.tensor_writer import FORMATS, Slot, TensorWriter
from foveate.errors import FoveateError
from foveate.models.common.robots import RobotMapping
from foveate.models.common.tensor_files import Stored, read_tensor
from foveate.models.pi0.config import Pi0Config
from foveate.util.files import draft_folder, nan_to_null, one_process
from foveate.util.progress import SILENT, Reporter
from foveate.util.provenance import provenance

RECORD = "conversion.json"
"""Says where a converted folder came from; what has none is never overwritten."""
ORIGIN = "origin"
"""Subfolder with the small files of the layout that the folder came from, for the way back."""
DTYPES = {name: dtype for dtype, name in FORMATS.items()}
"""What safetensors calls a number format -> the format."""


@dataclass(frozen=True)
class Converted:
    """What a conversion of a folder did."""

    tensors: int
    """Tensors written."""
    unused: tuple[str, ...] = ()
    """Keys of the source that are no part of the model."""
    notes: tuple[str, ...] = ()
    """What the person should know."""


@contextmanager
def new_folder(path: str | Path, *, overwrite: bool) -> Iterator[Path]:
    """Hand out an empty folder that takes the place of `path` when the block ends, and is gone when it fails.

    Args:
        overwrite: an earlier conversion may be there.
    Raises:
        FoveateError: something is there, or another process is converting into the same folder.
        CannotWrite: an OSError, in the block too.
    """
    path = Path(path).absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        if not (path / RECORD).is_file():
            raise FoveateError(f"{path}: something is there that is no conversion of foveate's; name a new folder")
        if not overwrite:
            raise FoveateError(
                f"{path}: holds an earlier conversion; replace it with --overwrite, or name a new folder"
            )
    with one_process(path.with_name(f".{path.name}.lock"), "converting"), draft_folder(path, "the checkpoint") as begun:
        yield begun


def write_record(folder: Path, facts: Mapping[str, Any]) -> None:
    """`conversion.json`: what was converted (plain values), by which foveate, when."""
    _write_json(folder / RECORD, nan_to_null({**facts, **provenance()}))


def write_policy_files(
    folder: Path, model: Pi0Config, robot: RobotMapping | None, asset_id: str | None, *, norm: str, resize: str
) -> None:
    """foveate's `config.json` and `robot.yaml`: what openpi's layout does not tell.

    Args:
        robot: None: not known; whoever runs the policy names it.
        asset_id: None: open.
    """
    if robot is not None:
        (folder / "robot.yaml").write_text(robot.to_yaml(), encoding="utf-8")
    description = {
        "model": model.to_dict(),
        "robot": None if robot is None else robot.name,
        "asset_id": asset_id,
        "norm": norm,
        "resize": resize,
    }
    _write_json(folder / "config.json", description)


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def copy_assets(source: Path, folder: Path) -> None:
    """Norm stats and whatever else stands in the source's `assets`."""
    if source.is_dir():
        shutil.copytree(source, folder / "assets", dirs_exist_ok=True)


def copy_tensors(
    path: Path,
    stored: Mapping[str, Stored],
    report: Reporter = SILENT,
    *,
    zeros: Mapping[str, Slot] | None = None,
) -> int:
    """Write stored tensors, bit by bit and one at a time, into one safetensors file; returns their number.

    Args:
        stored: their names there, and where they are now.
        zeros: further tensors, of zeros.
    """
    zeros = dict(zeros or {})
    slots = {name: Slot(entry.shape, DTYPES[entry.dtype]) for name, entry in stored.items()} | zeros
    with TensorWriter(path, slots) as file, report.bar("copying", "tensors", total=len(stored)) as bar:
        for name in zeros:
            file.write_zeros(name)
        for name, entry in stored.items():
            try:
                file.write(name, read_tensor(entry))
            except FoveateError as error:
                raise FoveateError(f"{entry.file}: {error}") from None
            bar.advance()
    return len(slots)


def carry(source: Path, files: Sequence[Path], folder: Path) -> None:
    """Copy small files of the source into `origin/`, at the places that they have there."""
    for file in files:
        target = folder / ORIGIN / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
