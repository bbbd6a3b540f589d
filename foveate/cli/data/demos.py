"""`foveate data metaworld-demos`: record demonstrations from scripted experts in Meta-World."""

from __future__ import annotations


def metaworld_demos(argv: list[str]) -> int:
    """The verb: record, say what was written."""
    from foveate.cli.config import parse
    from foveate.demonstrations.record import MetaWorldDemosConfig, record_demos
    from foveate.util.progress import Reporter, plain_console

    config = parse(MetaWorldDemosConfig, argv, "foveate data metaworld-demos")
    info = record_demos(config, Reporter(plain_console()))
    print(f"{info['total_episodes']} episodes, {info['total_frames']} steps in {config.out}")
    return 0
