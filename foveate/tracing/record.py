"""A dump as its readers want it: checked, defaults filled in, one patch axis, arrays of NumPy.

    for path, record in iter_records("runs/try"): ...

Fields may be missing, as in dumps that other programs wrote by the same schema: a missing one is None or empty. A
leading batch axis of 1 is taken off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foveate.errors import FoveateError
from foveate.tracing.schema import lookup
from foveate.tracing.store import iter_dumps, read_dump

_PLACE = re.compile(r"task(\d+)\D+ep(\d+)(?:\D+step(\d+))?")


@dataclass(frozen=True)
class View:
    """One camera of a dump."""

    name: str
    index: int
    grid: tuple[int, int]
    """Patch rows and columns."""
    part: slice
    """Of the patch axis."""
    image: str = ""
    """Source picture, relative to the run folder; empty: none."""
    source_hw: tuple[int, int] | None = None
    model_hw: tuple[int, int] | None = None
    """The model's input, padding included; None: the patches are taken to cover the whole picture."""
    flips: tuple[bool, bool] = (False, False)
    """The model saw the picture mirrored vertically, horizontally."""


@dataclass(frozen=True)
class Record:
    """The evidence of one inference."""

    path: Path
    run_dir: Path
    meta: Mapping[str, Any]
    """`task_id`, `episode` and `step` are always there."""
    views: tuple[View, ...]
    keep_mask: np.ndarray | None = None
    """bool [P]."""
    valid: np.ndarray | None = None
    """bool [P]: patches of cameras that are there."""
    scores: np.ndarray | None = None
    """float32 [P]."""
    stats: Mapping[str, np.ndarray] = field(default_factory=dict)
    """`max_per_query`, `entropy_per_query`, ... [Q]."""
    attn: Mapping[int, np.ndarray] = field(default_factory=dict)
    """Layer -> float32 [heads, P]."""
    seq_lens: Mapping[str, int] = field(default_factory=dict)
    stages_ms: Mapping[str, float] = field(default_factory=dict)
    latency_s: float | None = None

    @property
    def name(self) -> str:
        """`task000_ep000_step00000`."""
        return "task{task_id:03d}_ep{episode:03d}_step{step:05d}".format(**self.meta)

    @property
    def episode(self) -> tuple[str, int, int]:
        """Variant, task number, episode."""
        return str(self.meta.get("variant", "")), self.meta["task_id"], self.meta["episode"]

    @property
    def num_patches(self) -> int:
        """Of cameras that are there."""
        return sum(v.grid[0] * v.grid[1] for v in self.views) if self.valid is None else int(self.valid.sum())

    def kept_per_view(self) -> dict[str, int]:
        return {} if self.keep_mask is None else {v.name: int(self.keep_mask[v.part].sum()) for v in self.views}


def read_record(path: str | Path, run_dir: str | Path) -> Record:
    """One dump of a run folder.

    Raises:
        FoveateError: it cannot be read, or its parts do not fit together.
    """
    return to_record(read_dump(path), Path(path), Path(run_dir))


def iter_records(run_dir: str | Path) -> Iterator[tuple[Path, Record | FoveateError]]:
    """Each dump in order of task, episode and step, or in its place the error that says what is wrong with it."""
    for path, dump in iter_dumps(run_dir):
        try:
            yield path, dump if isinstance(dump, FoveateError) else to_record(dump, path, Path(run_dir))
        except FoveateError as error:
            yield path, error


def to_record(dump: Mapping[str, Any], path: Path, run_dir: Path) -> Record:
    """Raises FoveateError where the parts of a dump do not fit together."""
    try:
        views = _views(dump)
        patches = sum(v.grid[0] * v.grid[1] for v in views)
        attn = lookup(dump, "attn.task_to_vis") or {}
        record = Record(
            path=path,
            run_dir=run_dir,
            meta=_meta(dump, path),
            views=views,
            keep_mask=_flat(lookup(dump, "routing.keep_mask"), bool),
            valid=_flat(lookup(dump, "routing.valid_mask"), bool),
            scores=_flat(lookup(dump, "routing.router_scores"), np.float32),
            stats={k: np.asarray(v).reshape(-1) for k, v in (lookup(dump, "routing.score_stats") or {}).items()},
            attn={int(layer): _heads(value) for layer, value in attn.items()},
            seq_lens={k: int(v) for k, v in (lookup(dump, "routing.seq_lens") or {}).items()},
            stages_ms=_stages(lookup(dump, "perf.stages_ms") or {}),
            latency_s=lookup(dump, "perf.forward_latency_s"),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise FoveateError(
            f"{path}: its fields are not as docs/trace-schema.md says ({type(error).__name__}: {error})"
        ) from error
    arrays = {"keep_mask": record.keep_mask, "valid_mask": record.valid, "router_scores": record.scores}
    for name, value in (arrays | {f"task_to_vis[{layer}]": v for layer, v in record.attn.items()}).items():
        if value is not None and value.shape[-1] != patches:
            raise FoveateError(f"{path}: {name} has {value.shape[-1]} patches, the grids of align have {patches}")
    return record


def _flat(value: Any, dtype: Any) -> np.ndarray | None:
    return None if value is None else np.asarray(value).astype(dtype).reshape(-1)


def _heads(value: Any) -> np.ndarray:
    array = np.asarray(value, np.float32)
    return array.reshape(-1, array.shape[-1])


def _stages(said: Mapping[str, Any]) -> dict[str, float]:
    """Milliseconds per stage; `prefill` and `kv_cache` are two names of one stage, and a dump may hold either."""
    stages = {stage: float(ms) for stage, ms in said.items()}
    for name, other in (("prefill", "kv_cache"), ("kv_cache", "prefill")):
        if name not in stages and other in stages:
            stages[name] = stages[other]
    return stages


def _meta(dump: Mapping[str, Any], path: Path) -> dict[str, Any]:
    meta = dict(dump.get("meta") or {})
    place = _PLACE.search("/".join(path.parts[-3:]))
    defaults = [int(number or 0) for number in place.groups()] if place else [0, 0, 0]
    for key, default in zip(("task_id", "episode", "step"), defaults, strict=True):
        meta[key] = int(meta.get(key, default))
    meta.setdefault("task", f"task{meta['task_id']:03d}")
    return meta


def _views(dump: Mapping[str, Any]) -> tuple[View, ...]:
    """From `align`; grids may also be a list, one per view."""
    align = dump["align"]
    grids = align["patch_grids"]
    names = list(
        align.get("views") or (grids if isinstance(grids, Mapping) else (f"img{i}" for i in range(len(grids))))
    )
    images = list(align.get("image_paths") or [])
    sizes, flips, model = align.get("source_sizes") or {}, align.get("flips") or {}, align.get("model_image_size")
    views, start = [], 0
    for index, name in enumerate(names):
        rows, columns = (int(n) for n in (grids[name] if isinstance(grids, Mapping) else grids[index]))
        views.append(
            View(
                name=name,
                index=index,
                grid=(rows, columns),
                part=slice(start, start + rows * columns),
                image=images[index] if index < len(images) else "",
                source_hw=tuple(sizes[name]) if name in sizes else None,
                model_hw=tuple(model) if model else None,
                flips=tuple(flips.get(name, (False, False))),
            )
        )
        start += rows * columns
    return tuple(views)
