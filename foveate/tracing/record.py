"""A dump as its readers want it: checked, defaults filled in, one patch axis, arrays of NumPy.

    for path, record in iter_records("runs/try"): ...

Fields may be missing, as in dumps that other programs wrote by the same schema: a missing one is None or empty. A
leading batch axis of 1 is taken off. Dumps of LightVLA's scripts are brought into this form first (`lightvla.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from foveate.errors import FoveateError
from foveate.tracing.lightvla import adopt
from foveate.tracing.schema import lookup
from foveate.tracing.store import iter_dumps, named, read_dump

_PLACE = re.compile(r"task(\d+)\D+ep(\d+)(?:\D+step(\d+)|.*?_t(\d+)_q\d+)?")
"""Of foveate's paths, `task000/ep000/step00010.pt`, and of LightVLA's, `task000/ep000/task000_ep000_t0010_q000_...`."""
_FILE_NAME = re.compile(r"\w[\w.+-]{0,150}")


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
    crop: float | None = None
    """Side of the picture's middle that the model saw, stretched to its input; None: it saw all of it."""
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
    coordinates: np.ndarray | None = None
    """float32 [P, 2]: row and column of each kept token in its view, in patches, of a method that resamples."""
    stats: Mapping[str, np.ndarray] = field(default_factory=dict)
    """`max_per_query`, `entropy_per_query`, ... [Q]."""
    attn: Mapping[int, np.ndarray] = field(default_factory=dict)
    """Layer -> float32 [heads, P]."""
    state: np.ndarray | None = None
    """float32 [S]: the robot's state."""
    action: np.ndarray | None = None
    """float32 [T, A]: the chunk that was answered, in the environment's units."""
    seq_lens: Mapping[str, int] = field(default_factory=dict)
    stages_ms: Mapping[str, float] = field(default_factory=dict)
    latency_s: float | None = None

    @property
    def name(self) -> str:
        """`task000_ep000_step00000`, or what the dump calls itself, where a file may be called so."""
        given = str(self.meta.get("sample_id", ""))
        if _FILE_NAME.fullmatch(given):
            return given
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
        except Exception as error:
            yield path, named(path, error)


def to_record(dump: Mapping[str, Any], path: Path, run_dir: Path) -> Record:
    """Check a dump, and fill in what may be absent.

    Raises:
        FoveateError: a field that is needed is missing, has another shape or is out of its range, or the parts do not
            fit together.
    """
    try:
        dump = adopt(dump)
        views = _views(dump)
        patches = sum(v.grid[0] * v.grid[1] for v in views)
        attn = _mapping(dump, "attn.task_to_vis")
        latency = lookup(dump, "perf.forward_latency_s")
        record = Record(
            path=path,
            run_dir=run_dir,
            meta=_meta(dump, path),
            views=views,
            keep_mask=_mask(dump, "routing.keep_mask", patches),
            valid=_mask(dump, "routing.valid_mask", patches),
            scores=_floats(lookup(dump, "routing.router_scores"), "routing.router_scores", patches),
            coordinates=_places(lookup(dump, "routing.coordinates"), patches),
            stats={
                k: _array(v, f"routing.score_stats.{k}").reshape(-1)
                for k, v in _mapping(dump, "routing.score_stats").items()
            },
            attn={int(k): _floats(v, f"attn.task_to_vis.{k}", patches, heads=True) for k, v in attn.items()},
            state=_vectors(lookup(dump, "observation.state"), "observation.state", 1),
            action=_vectors(lookup(dump, "action"), "action", 2),
            seq_lens={
                k: whole(v, f"routing.seq_lens.{k}", 0, LARGEST) for k, v in _mapping(dump, "routing.seq_lens").items()
            },
            stages_ms=_stages(_mapping(dump, "perf.stages_ms")),
            latency_s=None if latency is None else _duration(latency, "perf.forward_latency_s"),
        )
    except Exception as error:  # a dump of another program may hold anything
        said = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise FoveateError(f"{path}: its fields are not as docs/trace-schema.md says ({said[:300]})") from error
    valid = slice(None) if record.valid is None else record.valid
    arrays = {"routing.router_scores": record.scores} | {f"attn.task_to_vis.{k}": v for k, v in record.attn.items()}
    for name, values in arrays.items():
        if values is not None and not np.isfinite(values[..., valid]).all():
            raise FoveateError(f"{path}: {name} has numbers that are not finite on patches of cameras that are there")
    return record


LARGEST, SIDE = 10**9, 1 << 15
"""Upper bound of counts, and of the sides of pictures and grids."""
PATCHES = 1 << 20
"""Upper bound of the patches of one dump."""


def whole(value: Any, name: str, low: int, high: int) -> int:
    """An integer within bounds, or a ValueError that names the field."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise ValueError(f"{name}: expected a whole number from {low} to {high}, got {_short(value)}")
    return int(value)


def _short(value: Any) -> str:
    if isinstance(value, int) and abs(value) > LARGEST:  # Python refuses to print some
        return "a larger one"
    return f"{type(value).__name__} {str(value)[:40]}"


def _mapping(dump: Mapping[str, Any], name: str) -> Mapping[Any, Any]:
    """A field that holds fields; absent: empty."""
    value = lookup(dump, name)
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{name}: expected a dict, got {_short(value)}")
    return value or {}


def _array(value: Any, name: str) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "bifu":
        raise ValueError(f"{name}: expected numbers, got {array.dtype}")
    return array


def _mask(dump: Mapping[str, Any], name: str, patches: int) -> np.ndarray | None:
    if (value := lookup(dump, name)) is None:
        return None
    array = _array(value, name).reshape(-1)
    _fits(array, name, patches)
    if not ((array == 0) | (array == 1)).all():
        raise ValueError(f"{name}: expected true and false alone")
    return array.astype(bool)


def _floats(value: Any, name: str, patches: int, heads: bool = False) -> Any:
    if value is None:
        return None
    array = _array(value, name)
    array = array.reshape(-1, array.shape[-1] if array.ndim else 1) if heads else array.reshape(-1)
    _fits(array, name, patches)
    if heads and ((array < 0) | (array > 1.01)).any():
        raise ValueError(f"{name}: expected shares of attention, from 0 to 1")
    return array.astype(np.float32)


def _vectors(value: Any, name: str, axes: int) -> np.ndarray | None:
    """Finite numbers with so many axes; a leading one of 1 is taken off."""
    if value is None:
        return None
    array = _array(value, name)
    while array.ndim > axes and array.shape[0] == 1:
        array = array[0]
    if array.ndim != axes or not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers with {axes} axes, got shape {list(array.shape)}")
    return array.astype(np.float32)


def _places(value: Any, patches: int) -> np.ndarray | None:
    places = _vectors(value, "routing.coordinates", 2)
    if places is not None:
        _fits(places.T, "routing.coordinates", patches)
        if places.shape[1] != 2:
            raise ValueError(f"routing.coordinates: expected row and column, got shape {list(places.shape)}")
    return places


def _fits(array: np.ndarray, name: str, patches: int) -> None:
    if array.shape[-1] != patches:
        raise ValueError(f"{name} has {array.shape[-1]} patches, the grids of align have {patches}")


def _duration(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LARGEST:
        raise ValueError(f"{name}: expected a time, got {_short(value)}")
    return float(value)


def _stages(said: Mapping[str, Any]) -> dict[str, float]:
    """Milliseconds per stage; `prefill` and `kv_cache` are two names of one stage, and a dump may hold either."""
    stages = {str(stage): _duration(ms, f"perf.stages_ms.{stage}") for stage, ms in said.items()}
    for name, other in (("prefill", "kv_cache"), ("kv_cache", "prefill")):
        if name not in stages and other in stages:
            stages[name] = stages[other]
    return stages


def place_of(path: PurePath) -> tuple[int | None, int | None, int | None]:
    """Task number, episode and step, as far as the path of a dump or of a picture tells them."""
    found = _PLACE.search("/".join(path.parts[-3:]))
    task, episode, step, other = found.groups() if found else (None,) * 4
    return _number(task), _number(episode), _number(step or other)


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _meta(dump: Mapping[str, Any], path: Path) -> dict[str, Any]:
    meta = dict(_mapping(dump, "meta"))
    defaults = [number or 0 for number in place_of(path)]
    for key, default in zip(("task_id", "episode", "step"), defaults, strict=True):
        meta[key] = whole(meta.get(key, default), f"meta.{key}", 0, LARGEST)
    for key in ("query", "seed"):
        if meta.get(key) is not None:
            whole(meta[key], f"meta.{key}", 0, 1 << 63)
    meta.setdefault("task", f"task{meta['task_id']:03d}")
    for key in ("task", "task_suite", "variant", "instruction", "checkpoint"):
        if not isinstance(meta.get(key, ""), str):
            raise ValueError(f"meta.{key}: expected a text, got {_short(meta[key])}")
    return meta


def _views(dump: Mapping[str, Any]) -> tuple[View, ...]:
    """From `align`; grids may also be a list, one per view."""
    align, grids = _mapping(dump, "align"), lookup(dump, "align.patch_grids")
    if grids is None:
        raise ValueError("align.patch_grids: missing")
    names = list(
        align.get("views") or (grids if isinstance(grids, Mapping) else (f"img{i}" for i in range(len(grids))))
    )
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"align.views: expected names, each once, got {_short(names)}")
    images = list(align.get("image_paths") or [])
    sizes, flips = _mapping(dump, "align.source_sizes"), _mapping(dump, "align.flips")
    model = align.get("model_image_size")
    views, start = [], 0
    for index, name in enumerate(names):
        if isinstance(grids, Mapping) and name not in grids:
            raise ValueError(f"align.patch_grids: no grid for view {name!r}")
        rows, columns = _pair(grids[name] if isinstance(grids, Mapping) else grids[index], f"align.patch_grids.{name}")
        views.append(
            View(
                name=name,
                index=index,
                grid=(rows, columns),
                part=slice(start, start + rows * columns),
                image=_inside(images[index]) if index < len(images) else "",
                source_hw=_pair(sizes[name], f"align.source_sizes.{name}") if name in sizes else None,
                model_hw=_pair(model, "align.model_image_size") if model is not None else None,
                crop=_share(align.get("model_crop"), "align.model_crop"),
                flips=_flips(flips.get(name, (False, False)), f"align.flips.{name}"),
            )
        )
        start += rows * columns
        if start > PATCHES:
            raise ValueError(f"align.patch_grids: more than {PATCHES} patches")
    return tuple(views)


def _pair(value: Any, name: str) -> tuple[int, int]:
    height, width = value
    return whole(height, name, 1, SIDE), whole(width, name, 1, SIDE)


def _share(value: Any, name: str) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1):
        raise ValueError(f"{name}: expected a share above 0, of 1 at most, got {_short(value)}")
    return value


def _flips(value: Any, name: str) -> tuple[bool, bool]:
    vertical, horizontal = value
    if not isinstance(vertical, bool) or not isinstance(horizontal, bool):
        raise ValueError(f"{name}: expected true or false, twice, got {_short(value)}")
    return vertical, horizontal


def _inside(image: Any) -> str:
    """The path of a picture, which lies in the run folder."""
    if not isinstance(image, str) or "\0" in image or PurePath(image).is_absolute() or ".." in PurePath(image).parts:
        raise ValueError(f"align.image_paths: expected a path in the run folder, got {_short(image)}")
    return image
