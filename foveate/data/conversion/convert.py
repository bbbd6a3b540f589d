"""`convert`: recordings of one format as another. The same call goes on with what was interrupted.

convert(ConvertConfig(source="demos/push", out="sets/push", to="v3.0"))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from foveate.data.conversion.base import Source
from foveate.data.conversion.demos import DemosSource, write_demos
from foveate.data.conversion.droid import DroidSource, write_droid
from foveate.data.conversion.hdf5 import LiberoHdf5Source
from foveate.data.conversion.joined import JoinedSource
from foveate.data.conversion.lerobot import LeRobotSource, write_lerobot
from foveate.data.droid.writer import OUTCOMES
from foveate.errors import FoveateError
from foveate.util.files import read_json
from foveate.util.progress import SILENT, Reporter


@dataclass(frozen=True)
class ConvertConfig:
    """Convert recordings: DROID trees, LeRobot, foveate's demonstrations, LIBERO's HDF5 demonstrations."""

    source: str
    """What is read: a folder, an HDF5 file, or OWNER/NAME of the hub; its format is found out. A folder of such folders
    is read as one."""
    out: str
    """Folder to write (or to go on with, after an interruption)."""
    to: Literal["v3.0", "v2.1", "demos", "droid"] = "v3.0"
    """Format: LeRobot v3.0 or v2.1, foveate's demonstrations, or a DROID-format tree."""
    images: Literal["video", "png"] = "video"
    """How LeRobot sets hold pictures: as H.264, or without loss as PNG in the parquet files."""
    leave_out: tuple[int, ...] = ()
    """Episodes of a LeRobot set that are not taken over, by their index: damaged ones, say."""

    def __post_init__(self) -> None:
        if Path(self.source).resolve() == Path(self.out).resolve():
            raise FoveateError(f"out {self.out}: is the source; name another folder")


def convert(config: ConvertConfig, report: Reporter = SILENT) -> int:
    """Write all recordings of the source in the other format; returns their number.

    Raises:
        FoveateError: the source's format is not known or damaged, or `out` holds something else.
    """
    source, out = open_source(config.source, config.leave_out), Path(config.out)
    if config.leave_out and not isinstance(source, LeRobotSource):
        raise FoveateError(f"leave_out: {config.source} is no LeRobot set; convert it, and leave episodes out of that")
    with report.bar(f"{config.source} to {config.to}", "episodes", len(source)) as bar:

        def step(done: int, total: int) -> None:
            bar.reach(done, total=total)

        if config.to == "demos":
            return write_demos(source, out, step)
        if config.to == "droid":
            return write_droid(source, out, step)
        return write_lerobot(source, out, config.to, "image" if config.images == "png" else "video", step)


def open_source(source: str, leave_out: Sequence[int] = ()) -> Source:
    """The recordings at a path, or of the hub, whatever their format.

    Args:
        leave_out: episodes of a LeRobot set that are not read, by their index.
    """
    path = Path(source).expanduser()
    info = path / "meta" / "info.json"
    if info.exists():
        return DemosSource(path) if "image_every" in read_json(info) else LeRobotSource(path, leave_out)
    if path.suffix in (".hdf5", ".h5") or any(path.glob("*.hdf5")):
        return LiberoHdf5Source(path)
    if any((path / outcome).is_dir() for outcome in OUTCOMES):
        return DroidSource(path)
    if inner := sorted(info.parent.parent for info in path.glob("*/meta/info.json")):
        return JoinedSource(f"all of {path}", [open_source(str(folder)) for folder in inner])
    if path.exists():
        raise FoveateError(
            f"{source}: no format that is known; expected meta/info.json (LeRobot, foveate's demonstrations; or "
            "folders with it), *.hdf5 (LIBERO), or success/ and failure/ (DROID)"
        )
    return LeRobotSource(source, leave_out)
