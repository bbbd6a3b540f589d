"""`foveate data metaworld-demos`, `libero-demos`: record demonstrations of scripted experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foveate.util.words import plural

if TYPE_CHECKING:
    from foveate.demonstrations.config import DemosConfig


def metaworld_demos(argv: list[str]) -> int:
    """The verb: record, say what was written."""
    from foveate.demonstrations.config import MetaWorldDemosConfig

    return _record(MetaWorldDemosConfig, argv)


def libero_demos(argv: list[str]) -> int:
    """The verb: record, say what was written."""
    from foveate.demonstrations.config import LiberoDemosConfig

    return _record(LiberoDemosConfig, argv)


def _record(kind: type[DemosConfig], argv: list[str]) -> int:
    from foveate.cli.config import parse
    from foveate.demonstrations.record import record_demos
    from foveate.util.progress import Reporter, plain_console

    config = parse(kind, argv, f"foveate data {kind.env}-demos")
    info = record_demos(config, Reporter(plain_console()))
    print(f"{plural(info['total_episodes'], 'episode')}, {plural(info['total_frames'], 'step')} in {config.out}")
    return 0
