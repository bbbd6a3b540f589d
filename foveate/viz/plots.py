"""The overlays of a run folder, as PNG files under `plots/`.

    plot_run("runs/try")

`plots/{score_heatmap,mask_heatmap,attn_task_to_vis/layerXX}/taskXXX_epYYY_stepZZZZZ__img{idx}.png`. Needs the dumps
and pictures alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foveate.errors import FoveateError
from foveate.tracing.record import Record, View, iter_records, read_record
from foveate.tracing.store import dump_paths
from foveate.tracing.tokens import check_run, none_readable
from foveate.util.files import CannotWrite, fault_of
from foveate.util.pictures import HARD_LIMIT, ImageError, fault, picture_size, read_picture
from foveate.viz.overlay import layers

PIXELS = 50_000_000
"""A source picture has at most."""


@dataclass
class Plotted:
    """What `plot_run` did."""

    inferences: int = 0
    files: int = 0
    without_pictures: int = 0
    """Inferences whose source pictures were not saved, or hold nothing to draw."""
    left_out: int = 0
    """Inferences beyond the limit."""
    unreadable: list[str] = field(default_factory=list)
    """One sentence per dump or picture that was skipped."""


def load_images(record: Record, *, decode: bool = True) -> dict[str, np.ndarray]:
    """View -> source picture, uint8 [H, W, 3], of the views that have one.

    Args:
        decode: False: look whether they can be read, which is quicker, and return nothing.
    Raises:
        FoveateError: a picture is damaged, too large, of another size than the dump says, or outside the run folder.
    """
    images = {}
    for view in record.views:
        if (path := picture_path(record, view)) is None:
            continue
        try:
            if decode:
                images[view.name] = read_picture(path)
            elif reason := fault(path):
                raise ImageError(reason)
        except ImageError as error:
            raise _unreadable(path, error) from error
    return images


def picture_path(record: Record, view: View) -> Path | None:
    """The file of a source picture, its place and size checked; None: there is none.

    Raises:
        FoveateError: as `load_images`; what its pixels hold is not looked at.
    """
    path = record.run_dir / view.image
    if not view.image or not path.exists():
        return None
    if not path.resolve().is_relative_to(record.run_dir.resolve()):
        raise FoveateError(f"{path}: lies outside the run folder, and is not read; copy it to its place")
    try:
        _check_size(path, picture_size(path, HARD_LIMIT), view.source_hw)
    except ImageError as error:
        raise _unreadable(path, error) from error
    return path


def _unreadable(path: Path, error: ImageError) -> FoveateError:
    return FoveateError(f"{path}: not a readable picture ({error}); delete it")


def _check_size(path: Path, size: tuple[int, int], said: tuple[int, int] | None) -> None:
    width, height = size
    if width * height > PIXELS:
        raise FoveateError(f"{path}: {width}x{height} pixels; a picture of a dump has {PIXELS} at most")
    if said is not None and (height, width) != said:
        raise FoveateError(f"{path}: {width}x{height} pixels, where its dump says {said[1]}x{said[0]}; restore it")


def damaged_pictures(run_dir: str | Path) -> list[str]:
    """One sentence per picture of a readable dump that cannot be read."""
    problems = []
    for _, record in iter_records(run_dir):
        if not isinstance(record, FoveateError):
            try:
                load_images(record, decode=False)
            except FoveateError as error:
                problems.append(str(error))
    return problems


def spread(items: Sequence[Any], limit: int | None) -> list[Any]:
    """At most `limit` of them, evenly over the whole, the first and the last included."""
    if limit is None or len(items) <= limit:
        return list(items)
    return [items[round(i)] for i in np.linspace(0, len(items) - 1, limit)]


def plot_run(run_dir: str | Path, limit: int | None = None, on_inference: Callable[[], None] | None = None) -> Plotted:
    """Draw every inference of a run.

    Args:
        limit: draw only so many, evenly over the run.
        on_inference: called after each, from any thread.
    Raises:
        FoveateError: the folder holds no dump, none that can be read, or `plots` cannot be written.
    """
    run_dir = check_run(run_dir)
    paths = dump_paths(run_dir)
    chosen = spread(paths, limit)
    result = Plotted(left_out=len(paths) - len(chosen))

    def draw(path: Path) -> int | FoveateError:
        try:
            return _draw(read_record(path, run_dir))
        except FoveateError as error:
            if isinstance(error, CannotWrite):
                raise
            return error
        except Exception as error:  # one odd inference does not end the plots
            return FoveateError(f"{path}: cannot be drawn ({fault_of(error)})")
        finally:
            if on_inference:
                on_inference()

    # Encoding PNGs takes most of the time, and Pillow lets other threads run meanwhile.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for drawn in pool.map(draw, chosen):
            if isinstance(drawn, FoveateError):
                result.unreadable.append(str(drawn))
                continue
            result.inferences += 1
            result.files += drawn
            result.without_pictures += drawn == 0
    if not result.inferences and all(isinstance(record, FoveateError) for _, record in iter_records(run_dir)):
        none_readable(run_dir, 0, result.unreadable)
    return result


def _draw(record: Record) -> int:
    images = load_images(record)
    index = {view.name: view.index for view in record.views}
    files = 0
    for kind, pictures in layers(record, images, bars=True).items():
        folder = record.run_dir / "plots" / kind
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for view, picture in pictures.items():
                path = folder / f"{record.name}__img{index[view]}.png"
                Image.fromarray(picture).save(path, compress_level=1)
                files += 1
        except OSError as error:
            raise CannotWrite(folder, error, "overlays") from error
    return files
