"""Records of engines that were compared with eager float32: of which checkpoint, on which machine, with what error.

A record is found by the whole content of the checkpoint, by what the engine computes with, by foveate's version and by
the machine: other weights, another backend, version or machine have none. They lie in the user's cache folder.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from foveate.engine.config import Eager
from foveate.engine.fastest import resolved
from foveate.engine.plan import FILE as BUCKETS
from foveate.util.files import CannotWrite, try_writing, user_cache, write_json
from foveate.util.provenance import machine
from foveate.version import __version__

CALIBRATION = "fp8.json"
"""In a policy's folder: scales of a prefill in float8; see `engine.calibration`."""

NAMES = {"foveate": "version of foveate"}
"""Of what a record holds for, in a sentence."""


def hash_folder(folder: Path) -> str:
    """SHA-256 over the names and contents of all files of a checkpoint, but for what engines keep beside it."""
    total = hashlib.sha256()
    own = {BUCKETS, CALIBRATION}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in own):
        total.update(
            f"{path.relative_to(folder)}\n{_hash(path, path.stat().st_size, path.stat().st_mtime_ns)}\n".encode()
        )
    return total.hexdigest()


@functools.lru_cache(maxsize=4096)
def _hash(path: Path, size: int, mtime_ns: int) -> str:
    """SHA-256 of a file; one that is as it was is not read again, gigabytes as checkpoints are."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity(folder: Path, engine: Eager, dtype: str, device: str) -> dict[str, Any]:
    """What a record holds for; plain values."""
    facts, scales = machine(), folder / CALIBRATION
    here = {name: facts.get(name) for name in ("cpu", "cores", "gpus")}
    return {
        "foveate": __version__,
        "checkpoint": hash_folder(folder),
        "calibration": hashlib.sha256(scales.read_bytes()).hexdigest()
        if engine.rounds_to_float8 and scales.is_file()
        else None,
        "backends": resolved(engine, dtype, device),
        "vision_precision": engine.vision_precision,
        "prefill_precision": engine.prefill_precision,
        "dtype": dtype,
        "device": device,
        "machine": {**here, "torch": torch.__version__},
    }


def ready_for_records() -> None:
    """Asked before a comparison, not after it.

    Raises:
        CannotWrite: the cache folder cannot be written.
    """
    folder = _folder()
    try:
        try_writing(folder)
    except OSError as error:
        raise CannotWrite(folder, error, "the record of the comparison") from error


def write_record(known: dict[str, Any], policy: str, result: dict[str, Any]) -> Path:
    """Keep a comparison.

    Raises:
        CannotWrite: the cache folder cannot be written.
    """
    path = _path(known)
    write_json(path, {"policy": policy, "identity": known, **result}, indent=1)
    return path


def forget_record(known: dict[str, Any]) -> None:
    """Drop a comparison that does not hold any more."""
    _path(known).unlink(missing_ok=True)


def read_record(known: dict[str, Any]) -> dict[str, Any] | None:
    """The comparison made for exactly this; None: there is none."""
    return _read(_path(known))


def nearest_record(known: dict[str, Any], policy: str) -> list[str] | None:
    """Of a record for the same policy folder: what it holds for something else in; None: there is no such record."""
    for path in sorted(_folder().glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        record = _read(path)
        if record is not None and record.get("policy") == policy:
            before = record.get("identity", {})
            return [NAMES.get(name, name) for name, value in known.items() if before.get(name) != value]
    return None


def _folder() -> Path:
    return user_cache() / "engine_checks"


def _path(known: dict[str, Any]) -> Path:
    return _folder() / f"{hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:32]}.json"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
