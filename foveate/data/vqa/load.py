"""Questions about images by name: published sets, the user's own JSONL, and the mixed set that is made here.

    load_vqa("mmbench", root="data")               # data/mmbench/*.tsv, split dev
    load_vqa("mixed", split="train", max_samples=500)
    load_vqa("questions.jsonl")

A set is a module `foveate/data/vqa/NAME.py` with `SPLITS`, `DEFAULT_SPLIT`, `GROUPED` and `load(split, root)`.
"""

from __future__ import annotations

import importlib
from itertools import islice
from pathlib import Path

from foveate.data.vqa.jsonl import SUFFIXES
from foveate.errors import FoveateError, unknown
from foveate.types import VQASample

PRESETS = {
    "mmbench": "foveate.data.vqa.mmbench",
    "mmmu": "foveate.data.vqa.mmmu",
    "textvqa": "foveate.data.vqa.textvqa",
    "easy_vqa": "foveate.data.vqa.easy",
    "mixed": "foveate.data.vqa.mixed",
}


def load_vqa(
    name_or_path: str, split: str | None = None, root: str | Path | None = None, max_samples: int | None = None
) -> list[VQASample]:
    """All questions of one split, in the order of the set.

    Args:
        name_or_path: a name of `PRESETS`, or the path of a JSONL file (docs/vqa-data.md has its fields).
        split: None: the usual one (MMBench: dev, whose answers are public). `val` and `validation` are one.
        root: folder with the published files, directly or in a folder of the set's name; None: they are fetched from
            the hub (not for JSONL, easy_vqa and mixed, which need no files).
        max_samples: so many at most, evenly over the split.
    Raises:
        FoveateError: an unknown name or split, missing files or columns, or a split without questions.
    """
    module = importlib.import_module(PRESETS.get(name_or_path, "foveate.data.vqa.jsonl"))
    if name_or_path in PRESETS:
        split = _choose_split(name_or_path, split, tuple(module.SPLITS), module.DEFAULT_SPLIT)
        rows = module.load(split, None if root is None else Path(root))
    elif name_or_path.endswith(SUFFIXES) or Path(name_or_path).exists():
        rows = module.load(split, Path(name_or_path))
    else:
        raise unknown("data set", name_or_path, PRESETS, "a JSONL file (its name ends with .jsonl)")
    # A part of a set that is sorted by subject is taken from everywhere in it.
    samples = list(rows if module.GROUPED else islice(rows, max_samples))
    if not samples:
        where = "" if split is None else f", split {split!r}"
        raise FoveateError(f"data set {name_or_path!r}{where}: it holds no question")
    if max_samples is not None and len(samples) > max_samples:
        samples = [samples[i * len(samples) // max_samples] for i in range(max_samples)]
    return samples


def _choose_split(name: str, split: str | None, splits: tuple[str, ...], default: str) -> str:
    if split is None:
        return default
    for candidate in (split, {"val": "validation", "validation": "val"}.get(split, split)):
        if candidate in splits:
            return candidate
    raise unknown(f"split of {name}", split, splits)
