"""Dumps on disk: written off the control loop, read back one by one.

    with TraceStore("runs/try") as store:
        store.submit(chunk.trace, observation, {"task": "reach", "task_id": 0, "episode": 0, "step": 0, ...})
    for path, dump in iter_dumps("runs/try"): ...

`submit` copies the pictures and returns; one thread writes. Up to `QUEUE` inferences wait in memory. When the disk
is slower than that, `submit` blocks: evidence is never dropped in silence. A disk that is full or has become
unwritable ends the trace, not the run: one warning, and everything after it is counted as dropped.
"""

from __future__ import annotations

import io
import logging
import queue
import re
import threading
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from foveate.errors import FoveateError, reason_of
from foveate.tracing.cap import DumpCap, Key
from foveate.tracing.schema import SCHEMA_VERSION, capabilities
from foveate.types import Observation, Trace
from foveate.util.files import CannotWrite, write_bytes

QUEUE = 128
"""Inferences that wait to be written; two 224 px views are 0.3 MB each."""

log = logging.getLogger("foveate")


def sample_id(meta: Mapping[str, Any]) -> str:
    """`task000_ep000_step00000`."""
    return f"task{meta['task_id']:03d}_ep{meta['episode']:03d}_step{meta['step']:05d}"


def sample_path(meta: Mapping[str, Any]) -> str:
    """`task000/ep000/step00000`: where a sample lies under `dumps` and `images`."""
    return sample_id(meta).replace("_", "/")


class TraceStore:
    """Writes the evidence of a run.

    Args:
        run_dir: gets `dumps/` and `images/`.
        max_dumps: dumps in the folder at most, those of an interrupted run included, spread over tasks and episodes
            (`cap.py`); None: no limit.
        save_images: write the source pictures, which overlays need.
        views: the layout's view -> names under which an observation may carry it; None: the same name.
        model_image_size: side of the model's square input in pixels, where the trace holds no model images.
        model_crop: side of the middle of a picture that the model sees, as a share of the picture's; None: all of it.
    Raises:
        FoveateError: the folder cannot be written.
    """

    def __init__(
        self,
        run_dir: str | Path,
        max_dumps: int | None = None,
        save_images: bool = True,
        dump_routing: bool = True,
        dump_attn: bool = True,
        *,
        views: Mapping[str, Sequence[str]] | None = None,
        model_image_size: int | None = None,
        model_crop: float | None = None,
    ) -> None:
        self.run_dir = Path(run_dir)
        self._save_images, self._dump_routing, self._dump_attn = save_images, dump_routing, dump_attn
        self._views, self._model_size = views or {}, model_image_size
        self._model_crop = model_crop
        self._earlier = frozenset(_keys(self.run_dir))
        self._cap = None if max_dumps is None else DumpCap(max_dumps, self._earlier)
        self._written = self._failed = 0
        self._refused = self._discarded = 0  # by the caller's thread and by the writer's
        self._broken = False
        self.warnings: list[str] = []
        probe = self.run_dir / "dumps" / ".probe"
        try:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise FoveateError(
                f"{self.run_dir}: the trace cannot be written there ({error.strerror}); choose a writable folder with "
                "--trace_out_dir"
            ) from error
        self._queue: queue.Queue[_Sample | None] = queue.Queue(QUEUE)
        self._writer = threading.Thread(target=self._run, name="trace-writer", daemon=True)
        self._writer.start()

    def submit(self, trace: Trace, obs: Observation, meta: Mapping[str, Any], action: np.ndarray | None = None) -> None:
        """Hand over the evidence of one inference; returns before it is written.

        The first inference of an episode (`query` 0) removes what an interrupted attempt left of that episode.

        Args:
            meta: `task_id`, `episode` and `step` at least; see `foveate.tracing.schema`.
            action: float32 [T, A], the chunk that was answered; None: it is not written.
        """
        if self._broken:
            self._refused += 1
            return
        gone = None
        if self._cap is not None:
            if meta.get("query") == 0:
                self._cap.forget(meta["task_id"], meta["episode"])
            admitted, gone = self._cap.admit((meta["task_id"], meta["episode"], meta["step"]))
            if not admitted:
                self._refused += 1
                return
        # A camera driver may fill the same buffer again before the writer comes to it.
        try:
            pictures = {view: np.array(image) for view, image in self._pictures(trace, obs).items()}
        except Exception as error:  # odd evidence: named, and the run goes on
            self._spoilt(meta, error)
            return
        self._queue.put(_Sample(trace, pictures, np.array(obs.state), action, dict(meta), gone))

    def flush(self) -> None:
        """Wait until everything that was submitted is written, or has failed."""
        self._queue.join()

    def close(self) -> dict[str, Any]:
        """Write what is waiting, and say what became of everything; may be called twice."""
        if self._writer.is_alive():
            self._queue.put(None)
            self._writer.join()
        return {
            "written": self._written,
            "dropped": self._refused + self._discarded,
            "failed": self._failed,
            "warning": self.warnings[0] if self.warnings else None,
        }

    def __enter__(self) -> TraceStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _pictures(self, trace: Trace, obs: Observation) -> dict[str, np.ndarray]:
        """The source picture of each of the layout's views; where it is not known by name, what the model saw."""
        pictures = {}
        for span in trace.layout.images:
            names = self._views.get(span.name, (span.name,))
            source = next((obs.images[name] for name in names if name in obs.images), trace.model_images.get(span.name))
            if source is not None:
                pictures[span.name] = source
        return pictures

    def _run(self) -> None:
        while (sample := self._queue.get()) is not None:
            self._take(sample)
            self._queue.task_done()

    def _take(self, sample: _Sample) -> None:
        if self._broken:
            self._discarded += 1
            return
        try:
            self._write(sample)
            self._written += 1
        except (OSError, CannotWrite) as error:
            self._failed += 1
            self._broken = True
            reason = error.reason if isinstance(error, CannotWrite) else error.strerror or error
            self._warn(
                f"trace: {sample_id(sample.meta)} could not be written under {self.run_dir} "
                f"({reason}); no more dumps are written in this run, results are not affected"
            )
        except Exception as error:  # one inference with odd evidence does not end the trace
            self._spoilt(sample.meta, error)

    def _spoilt(self, meta: Mapping[str, Any], error: Exception) -> None:
        self._failed += 1
        self._warn(f"trace: {sample_id(meta)} could not be written: {type(error).__name__}: {error}")

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        if len(self.warnings) == 1:
            log.warning(text)

    def _write(self, sample: _Sample) -> None:
        relative = sample_path(sample.meta)
        if sample.meta.get("query") == 0:
            self._forget(Path(relative).parent, "step*")
        if sample.gone is not None:
            task, episode, step = sample.gone
            old = Path(sample_path({"task_id": task, "episode": episode, "step": step}))
            self._forget(old.parent, f"{old.name}*")
            self._written -= sample.gone not in self._earlier
            self._discarded += 1
        paths = dict.fromkeys((span.name for span in sample.trace.layout.images), "")
        if self._save_images:
            for index, view in enumerate(paths):
                if view in sample.pictures:
                    paths[view] = f"images/{relative}__img{index}.png"
                    buffer = io.BytesIO()
                    Image.fromarray(sample.pictures[view]).save(buffer, "PNG", compress_level=1)
                    write_bytes(self.run_dir / paths[view], buffer.getvalue(), sync=False)
        # The dump comes last: whoever sees it finds its pictures.
        dump = self._dump(sample, list(paths.values()))
        write_bytes(self.run_dir / "dumps" / f"{relative}.pt", _to_bytes(dump), sync=False)

    def _forget(self, episode: Path, names: str) -> None:
        _remove(self.run_dir, episode, names)

    def _dump(self, sample: _Sample, image_paths: list[str]) -> dict[str, Any]:
        trace = sample.trace
        sizes = {view: list(image.shape[:2]) for view, image in sample.pictures.items()}
        align: dict[str, Any] = {
            "views": [span.name for span in trace.layout.images],
            "patch_grids": {span.name: list(span.grid or (1, len(span))) for span in trace.layout.images},
            "num_images_in_input": len(sample.pictures),
            "image_paths": image_paths,
            "source_sizes": sizes,
        }
        model_size = next((list(image.shape[:2]) for image in trace.model_images.values()), None)
        if model_size or self._model_size:
            align["model_image_size"] = model_size or [self._model_size, self._model_size]
        if self._model_crop is not None:
            align["model_crop"] = self._model_crop
        dump: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "meta": {key: _plain(value) for key, value in sample.meta.items()} | {"sample_id": sample_id(sample.meta)},
            "align": align,
            "observation": {"state": np.asarray(sample.state, np.float32).reshape(-1)},
        }
        if sample.action is not None:
            dump["action"] = np.asarray(sample.action, np.float32)
        if self._dump_routing and trace.keep is not None:
            dump["routing"] = _routing(trace)
        if self._dump_attn and trace.attn:
            dump["attn"] = {"task_to_vis": {layer: np.asarray(a, np.float32) for layer, a in trace.attn.items()}}
        if trace.decision is not None:
            decision = trace.decision
            dump["decision"] = {
                "level": dict(decision.level),
                "scores": {k: float(v) for k, v in decision.scores.items()},
            }
            if decision.token_budget is not None:
                dump["decision"]["token_budget"] = int(decision.token_budget)
        if trace.timings_ms:
            stages = {stage: float(ms) for stage, ms in trace.timings_ms.items()}
            if "prefill" in stages:
                stages["kv_cache"] = stages["prefill"]
            dump["perf"] = {"stages_ms": stages}
            if "total" in stages:
                dump["perf"]["forward_latency_s"] = stages["total"] / 1e3
        return dump | {"capabilities": capabilities(dump)}


@dataclass(frozen=True)
class _Sample:
    trace: Trace
    pictures: dict[str, np.ndarray]
    state: np.ndarray
    action: np.ndarray | None
    meta: dict[str, Any]
    gone: Key | None = None
    """The dump that gives way to this one."""


def _routing(trace: Trace) -> dict[str, Any]:
    keep = dict(trace.keep or {})
    mask = np.asarray(keep.pop("keep_mask"), bool)
    valid = np.asarray(keep.pop("valid", np.ones_like(mask)), bool)
    routing: dict[str, Any] = {
        "keep_mask": mask,
        "valid_mask": valid,
        "indices": np.flatnonzero(mask).astype(np.int64),
        "keep_counts": np.array([mask[part].sum() for part in trace.layout.view_slices.values()], np.int64),
        "kept_ratio": float(mask.sum() / max(1, valid.sum())),
    }
    if trace.seq_lens:
        routing["seq_lens"] = {name: int(length) for name, length in trace.seq_lens.items()}
    if trace.layer_tokens:
        routing["layer_tokens"] = list(trace.layer_tokens)
    if history := {n.removeprefix("history_"): np.asarray(v) for n, v in keep.items() if n.startswith("history_")}:
        routing["history"] = history
    for name in ("router_scores", "raw_score", "coordinates"):
        if name in keep:
            routing[name] = np.asarray(keep.pop(name), np.float32)
    kinds = {"tied_per_query": bool}
    stats = {n: np.asarray(v, kinds.get(n, np.float32)) for n, v in keep.items() if n.endswith("_per_query")}
    if stats:
        routing["score_stats"] = stats
    return routing


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _to_bytes(dump: dict[str, Any]) -> bytes:
    """In memory first: a full disk is then an OSError, which torch's own file writer hides."""
    import torch

    def tensors(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return torch.from_numpy(np.ascontiguousarray(value))
        return {key: tensors(item) for key, item in value.items()} if isinstance(value, dict) else value

    buffer = io.BytesIO()
    torch.save(tensors(dump), buffer)
    return buffer.getvalue()


def dump_paths(run_dir: str | Path) -> list[Path]:
    """All dumps of a run folder, in order of task, episode and step."""
    return sorted((Path(run_dir) / "dumps").rglob("*.pt"))


def _keys(run_dir: Path) -> list[Key]:
    places = (re.search(r"task(\d+)/ep(\d+)/step(\d+)\.pt$", path.as_posix()) for path in dump_paths(run_dir))
    return [(int(place[1]), int(place[2]), int(place[3])) for place in places if place]


def _remove(run_dir: Path, episode: Path, names: str) -> None:
    for kind in ("dumps", "images"):
        for stale in (run_dir / kind / episode).glob(names):
            stale.unlink()


def forget_unfinished(run_dir: Path, finished: Collection[tuple[int, int]]) -> None:
    """Remove what attempts at episodes have left that never ended.

    Args:
        finished: (task_id, episode) of those that did.
    """
    for folder in {path.parent.relative_to(run_dir / "dumps") for path in dump_paths(run_dir)}:
        place = re.fullmatch(r"task(\d+)/ep(\d+)", folder.as_posix())
        if place and (int(place[1]), int(place[2])) not in finished:
            _remove(run_dir, folder, "step*")


def lacking_dumps(run_dir: Path, inferences: Iterable[Mapping[str, Any]]) -> list[str]:
    """`sample_id` of the inferences that have no dump.

    Args:
        inferences: `task_id`, `episode` and `step` of each.
    """
    held = {path.relative_to(run_dir / "dumps").as_posix() for path in dump_paths(run_dir)}
    return [sample_id(meta) for meta in inferences if f"{sample_path(meta)}.pt" not in held]


def read_dump(path: str | Path) -> dict[str, Any]:
    """One dump, with NumPy arrays for tensors; what it holds is for `schema.validate` and `record.read` to judge.

    Nothing is unpacked or filled in before it is known to be no larger than the file.

    Raises:
        FoveateError: it cannot be read, or is no dump of this schema version.
    """
    import torch

    path = Path(path)
    if not path.is_file():
        raise _unreadable(path, "it is no regular file")
    try:
        _check_stored(path)
        raw = torch.load(path, map_location="cpu", weights_only=True)
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        dump = _arrays(raw, "") if version == SCHEMA_VERSION else {}
    except Exception as error:  # torch and pickle raise whatever a damaged file makes them stumble over
        raise _unreadable(path, _fault(path, error)) from error
    if version != SCHEMA_VERSION:
        raise FoveateError(
            f"{path}: expected a dict of trace schema {SCHEMA_VERSION!r}, got "
            + (f"schema_version {str(version)[:40]!r}" if isinstance(raw, dict) else type(raw).__name__)
        )
    return dump


def _unreadable(path: Path, fault: str) -> FoveateError:
    return FoveateError(
        f"{path}: not a readable dump: expected tensors, numbers and texts as a traced run writes them, but {fault}; "
        "delete it, or copy it again"
    )


def _fault(path: Path, error: Exception) -> str:
    """In our words: torch's are about its own code, and would have that of the file executed."""
    if isinstance(error, OSError):
        return f"it cannot be read ({error.strerror or error})"
    if isinstance(error, _NotStored):
        return str(error)
    if not zipfile.is_zipfile(path):
        return "it is empty" if path.stat().st_size == 0 else "it is cut short, or not a file of torch.save"
    return "it is damaged, or holds more than these"


class _NotStored(ValueError):
    """A file that would unpack to more than it is."""


def _check_stored(path: Path) -> None:
    """`torch.save` never compresses: what is packed may unpack to any size."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            packed = [entry.filename for entry in file.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise _NotStored(f"{packed[0]} in it is compressed")


def _arrays(value: Any, name: str) -> Any:
    """NumPy arrays for tensors; a tensor with more elements than are stored (a stride of 0) is refused."""
    import torch

    if isinstance(value, dict):
        return {key: _arrays(item, f"{name}.{key}") for key, item in value.items()}
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach()
    stored = value.untyped_storage().nbytes() if value.layout is torch.strided else 0
    if value.numel() * value.element_size() > stored:
        raise _NotStored(f"its {name[1:]} has {value.numel()} elements in {stored} stored bytes")
    return (value.float() if value.dtype is torch.bfloat16 else value).numpy()


def named(path: Path, error: Exception) -> FoveateError:
    """The error of one dump; what foveate did not foresee gets the dump's name."""
    return error if isinstance(error, FoveateError) else FoveateError(f"{path}: not a usable dump ({reason_of(error)})")


def iter_dumps(run_dir: str | Path) -> Iterator[tuple[Path, dict[str, Any] | FoveateError]]:
    """Each dump, or in its place the error that says what is wrong with it; reading goes on after one."""
    for path in dump_paths(run_dir):
        try:
            yield path, read_dump(path)
        except Exception as error:
            yield path, named(path, error)
