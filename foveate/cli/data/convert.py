"""`foveate data convert`: recordings of one format as another."""

from __future__ import annotations


def run(argv: list[str]) -> int:
    """The verb: convert, say what was written."""
    from foveate.cli.config import parse
    from foveate.data.conversion.convert import ConvertConfig, convert
    from foveate.util.progress import Reporter, plain_console

    config = parse(ConvertConfig, argv, "foveate data convert", positional=("source", "out"))
    count = convert(config, Reporter(plain_console()))
    print(f"{count} episodes in {config.out}")
    return 0
