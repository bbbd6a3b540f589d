"""Answers that were made already: an append-only folder of passes, of one model, prompt, decoding and budget.

    FOLDER/meta.json              what these answers depend on
           /FULL.0.jsonl          one line per question: answer, log-probabilities, tokens, loss, uncertainty
           /text.0.jsonl          the text-first pass: entropy, margin, hidden state (float16, base64)
           /FULL@stride0.5.0.jsonl

Every process that writes has a number of its own, so that several (of `torchrun`, or two commands at once) fill one
folder; readers take them all. A question is known by the hash of its words, options, answers and picture.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foveate.errors import FoveateError
from foveate.types import VQASample
from foveate.util.files import JsonLines, draft, read_json_lines
from foveate.util.pictures import encoded

if TYPE_CHECKING:
    from filelock import FileLock

FORMAT = 1


def sample_key(sample: VQASample) -> str:
    """16 hex digits of all that an answer depends on."""
    digest = hashlib.sha256()
    words = [sample.dataset, sample.id, sample.question, sample.hint, *sample.choices, "", *sample.answers]
    digest.update(json.dumps(words, ensure_ascii=False).encode())
    digest.update(image_bytes(sample))
    return digest.hexdigest()[:16]


def image_bytes(sample: VQASample) -> bytes:
    """The encoded picture; of a missing file, and without a picture, nothing."""
    return encoded(sample.image)


def data_hash(samples: Sequence[VQASample]) -> str:
    """16 hex digits of a whole set, in its order."""
    return hashlib.sha256("".join(map(sample_key, samples)).encode()).hexdigest()[:16]


def config_hash(values: Any) -> str:
    """16 hex digits of plain JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def pack_hidden(hidden: np.ndarray) -> str:
    """float [D] as base64 of float16; a head is trained and run on these same rounded numbers."""
    limit = np.finfo(np.float16).max
    return base64.b64encode(np.clip(hidden, -limit, limit).astype("<f2").tobytes()).decode()


def unpack_hidden(text: str) -> np.ndarray:
    """float32 [D]."""
    return np.frombuffer(base64.b64decode(text), dtype="<f2").astype(np.float32)


class PassCache:
    """The folder; `rows(name)` reads a pass, `add(name, rows)` appends to it.

    Args:
        folder: made where it is missing.
        meta: what answers depend on, as flat plain values.
    Raises:
        FoveateError: the folder holds answers of another model, prompt, decoding or budget, or something else.
    """

    def __init__(self, folder: Path, meta: Mapping[str, Any]) -> None:
        self.folder = folder
        self._files: dict[str, JsonLines] = {}
        self._lock: FileLock | None = None
        self._writer = -1
        meta = json.loads(json.dumps({"format": FORMAT, **meta}))
        path = folder / "meta.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Listed before the look for meta.json: whatever another process puts here stands there after its meta.json.
            # Drafts and locks of such processes are hidden files.
            others = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
            known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        except (OSError, ValueError) as error:
            raise FoveateError(f"{folder}: not a folder of cached answers ({error}); name another") from error
        if known is None and others:
            raise FoveateError(
                f"{folder}: not a folder of cached answers: expected an empty folder or one with a meta.json, found "
                f"{', '.join(others[:4])}{', ...' if len(others) > 4 else ''}; name another with --eval.cache_dir"
            )
        if known is None:
            with draft(path, shared=True) as begun:  # several processes may begin at once; they all say the same
                begun.write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        elif known != meta:
            differing = sorted(k for k in known.keys() | meta.keys() if known.get(k) != meta.get(k))
            differences = "; ".join(f"{k}: {known.get(k)!r} there, {meta.get(k)!r} now" for k in differing)
            raise FoveateError(
                f"{folder} holds answers that were made otherwise ({differences}), and they cannot be mixed with "
                "these; leave eval.cache_dir out, or name another folder"
            )

    def rows(self, name: str) -> dict[str, dict[str, Any]]:
        """Question key -> its row. The first of doubles counts, but for one that tells an `error`: it counts until
        another has none. A torn last line is passed over."""
        found: dict[str, dict[str, Any]] = {}
        for path in sorted(self.folder.glob(f"{name}.*.jsonl")):
            for row in read_json_lines(path):
                if row["key"] not in found or found[row["key"]].get("error"):
                    found[row["key"]] = row
        return found

    def add(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows (each with its `key`); they are on the disk before this returns."""
        if name not in self._files:
            self._files[name] = JsonLines(self.folder / f"{name}.{self._number()}.jsonl")
        self._files[name].append(rows)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _number(self) -> int:
        """The lowest number that no other process writes under now."""
        from filelock import FileLock, Timeout

        while self._lock is None:
            self._writer += 1
            lock = FileLock(self.folder / f".writer{self._writer}.lock", thread_local=False)
            with contextlib.suppress(Timeout):
                lock.acquire(blocking=False)
                self._lock = lock
        return self._writer
