"""A run folder as a Rerun recording: pictures, overlays, numbers and words on one timeline, with a blueprint.

    write_recording("runs/try", "runs/try/report/run.rrd")        # then: rerun runs/try/report/run.rrd

Entities: `camera/VIEW`, `kept/VIEW`, `score/VIEW`, `attention/layerXX/VIEW`, `tokens/kept`, `ms/STAGE`, `actions/N`
(the first action of each chunk), `episode`. The timeline `inference` counts over the whole run, `step` begins anew with
every episode. Needs the extra `rerun`; no model, no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foveate.errors import FoveateError, reason_of
from foveate.tracing.record import Record, read_record
from foveate.tracing.store import dump_paths
from foveate.tracing.tokens import check_run, none_readable
from foveate.util.files import draft
from foveate.viz.overlay import layers
from foveate.viz.plots import load_images, spread
from foveate.viz.report.data import Row, read_rows

QUALITY = 85
"""Of the JPEGs that pictures become."""


@dataclass
class Recorded:
    """What `write_recording` did."""

    path: Path
    inferences: int = 0
    left_out: int = 0
    """Inferences beyond the limit."""
    unreadable: list[str] = field(default_factory=list)
    """One sentence per dump or picture that was passed over."""


def write_recording(
    run_dir: str | Path, out: str | Path, limit: int | None = None, on_inference: Callable[[], None] = lambda: None
) -> Recorded:
    """Write the recording, whole or not at all.

    Args:
        limit: take only so many inferences, evenly over the run; None: all.
    Raises:
        FoveateError: the folder holds no dump, none that can be read, `out` cannot be written, or the extra `rerun` is
            not installed.
    """
    try:
        import rerun
    except ImportError as error:
        raise FoveateError('a Rerun recording needs rerun-sdk; pip install "foveate[rerun]"') from error
    folder, out = check_run(run_dir), Path(out)
    paths = dump_paths(folder)
    chosen = spread(paths, limit)
    done = Recorded(out, left_out=len(paths) - len(chosen))
    outcomes = _outcomes(folder)
    with draft(out, "the recording") as begun:
        out.parent.mkdir(parents=True, exist_ok=True)
        recording = rerun.RecordingStream("foveate", recording_id=folder.resolve().name)
        recording.save(begun)
        recording.send_recording_name(folder.resolve().name)
        seen: dict[str, None] = {}
        episode: tuple[Any, ...] | None = None
        for path in chosen:
            try:
                record = read_record(path, folder)
                pictures = _pictures(record)
            except FoveateError as error:
                done.unreadable.append(str(error))
                continue
            except Exception as error:  # one odd inference does not end the recording
                done.unreadable.append(f"{path}: cannot be drawn ({reason_of(error)})")
                continue
            finally:
                on_inference()
            recording.set_time("inference", sequence=done.inferences)
            recording.set_time("step", sequence=record.meta["step"])
            for name, picture in pictures.items():
                recording.log(name, rerun.Image(picture).compress(jpeg_quality=QUALITY))
            for name, value in _numbers(record).items():
                recording.log(name, rerun.Scalars(value))
            if record.episode != episode:
                recording.log("episode", rerun.TextDocument(_words(record, outcomes), media_type="text/plain"))
            seen |= dict.fromkeys([*pictures, *_numbers(record)])
            episode = record.episode
            done.inferences += 1
        none_readable(folder, done.inferences, done.unreadable)
        recording.send_blueprint(_blueprint(seen))
        recording.flush()
        recording.disconnect()
    return done


def _pictures(record: Record) -> dict[str, np.ndarray]:
    """Entity -> uint8 [H, W, 3]."""
    images = load_images(record)
    named = {"mask_heatmap": "kept", "score_heatmap": "score"}
    found = {f"camera/{view}": image for view, image in images.items()}
    for kind, drawn in layers(record, images, bars=False).items():
        entity = named.get(kind, kind.replace("attn_task_to_vis", "attention"))
        found |= {f"{entity}/{view}": picture for view, picture in drawn.items()}
    return found


def _numbers(record: Record) -> dict[str, float]:
    """Entity -> value."""
    found = {f"ms/{stage}": ms for stage, ms in record.stages_ms.items() if stage != "kv_cache"}
    if record.keep_mask is not None:
        found["tokens/kept"] = float(record.keep_mask.sum())
    if record.action is not None and len(record.action):
        found |= {f"actions/{i}": float(value) for i, value in enumerate(record.action[0])}
    return found


def _outcomes(folder: Path) -> dict[tuple[str, int], Row]:
    rows = read_rows(folder / "episodes.jsonl", ("task", "episode", "status"), [], growing=True)
    return {(row["task"], int(row["episode"])): row for row in rows}


def _words(record: Record, outcomes: Mapping[tuple[str, int], Row]) -> str:
    meta = record.meta
    row = outcomes.get((str(meta["task"]), meta["episode"]), {})
    lines = [f"{meta['task']}, episode {meta['episode']}", str(meta.get("instruction", ""))]
    lines += [f"{name}: {meta[name]}" for name in ("variant", "seed", "checkpoint") if meta.get(name) not in (None, "")]
    return "\n".join([*lines, f"outcome: {row['status']}"] if "status" in row else lines)


def _blueprint(entities: Iterable[str]) -> Any:
    """Pictures above, a tab for each kind of them; numbers and words below."""
    import rerun.blueprint as rrb

    kinds: dict[str, list[str]] = {}
    plots: dict[str, None] = {}
    for entity in entities:
        kind, _, view = entity.rpartition("/")
        if kind in ("ms", "tokens", "actions"):
            plots[kind] = None
        else:
            kinds.setdefault(kind, []).append(view)
    tabs = [
        rrb.Horizontal(*(rrb.Spatial2DView(origin=f"{kind}/{view}", name=view) for view in views), name=kind)
        for kind, views in kinds.items()
    ]
    below = [rrb.TimeSeriesView(origin=kind, name=kind) for kind in plots]
    return rrb.Blueprint(
        rrb.Vertical(
            rrb.Tabs(*tabs) if tabs else rrb.TextDocumentView(origin="episode", name="episode"),
            rrb.Horizontal(*below, rrb.TextDocumentView(origin="episode", name="episode")),
            row_shares=[3, 2],
        ),
        rrb.TimePanel(timeline="inference"),
        collapse_panels=True,
    )
