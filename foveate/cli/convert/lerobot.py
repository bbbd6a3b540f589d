"""`foveate convert lerobot-to-openpi` and `openpi-to-lerobot`: one layout of PyTorch weights as the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foveate.cli.config import parse
from foveate.util.progress import Reporter, plain_console

if TYPE_CHECKING:
    from foveate.convert.folder import Converted


def to_openpi(argv: list[str]) -> int:
    """The verb: convert a LeRobot policy, say what is to be known about it."""
    from foveate.convert.lerobot_to_openpi import LeRobotToOpenpiConfig, lerobot_to_openpi

    positional = ("policy_path", "output_path")
    config = parse(LeRobotToOpenpiConfig, argv, "foveate convert lerobot-to-openpi", positional=positional)
    report = Reporter(plain_console())
    _tell(report, lerobot_to_openpi(config, report), config.output_path)
    return 0


def to_lerobot(argv: list[str]) -> int:
    """The verb: convert into a LeRobot policy, say what is to be known about it."""
    from foveate.convert.openpi_to_lerobot import OpenpiToLeRobotConfig, openpi_to_lerobot

    positional = ("policy_path", "output_path")
    config = parse(OpenpiToLeRobotConfig, argv, "foveate convert openpi-to-lerobot", positional=positional)
    report = Reporter(plain_console())
    _tell(report, openpi_to_lerobot(config, report), config.output_path)
    return 0


def _tell(report: Reporter, result: Converted, out: str) -> None:
    if result.unused:
        report.line(f"unused: {', '.join(result.unused)}")
    for note in result.notes:
        report.warn(note)
    report.line(f"{result.tensors} tensors: {out}")
