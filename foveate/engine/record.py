"""Records of engines that were compared with eager float32: of which checkpoint, on which machine, with what error.

A record is found by the whole content of the checkpoint, by what the engine computes with, and by the machine: other
weights, another backend or another machine have none. They lie in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from foveate.engine.config import Eager
from foveate.engine.plan import FILE
from foveate.util.files import user_cache, write_json
from foveate.util.provenance import machine


def hash_folder(folder: Path) -> str:
    """SHA-256 over the names and contents of all files of a checkpoint, but for the plan of its buckets."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FILE):
        with path.open("rb") as file:
            total.update(f"{path.relative_to(folder)}\n{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def identity(folder: Path, engine: Eager, dtype: str, device: str) -> dict[str, Any]:
    """What a record holds for; plain values."""
    facts = machine()
    here = {name: facts.get(name) for name in ("cpu", "cores", "gpus")}
    return {
        "checkpoint": hash_folder(folder),
        "backends": engine.backends,
        "prefill_precision": engine.prefill_precision,
        "dtype": dtype,
        "device": device,
        "machine": {**here, "torch": torch.__version__},
    }


def write_record(known: dict[str, Any], policy: str, result: dict[str, Any]) -> Path:
    """Keep a comparison.

    Raises:
        CannotWrite: the cache folder cannot be written.
    """
    path = _path(known)
    write_json(path, {"policy": policy, "identity": known, **result}, indent=1)
    return path


def read_record(known: dict[str, Any]) -> dict[str, Any] | None:
    """The comparison made for exactly this; None: there is none."""
    return _read(_path(known))


def nearest_record(known: dict[str, Any], policy: str) -> list[str] | None:
    """Of a record for the same policy folder: what it holds for something else in; None: there is no such record."""
    for path in sorted(_folder().glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        record = _read(path)
        if record is not None and record.get("policy") == policy:
            return [name for name, value in known.items() if record.get("identity", {}).get(name) != value]
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
