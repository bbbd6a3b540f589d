"""`foveate bench loader`: how fast a LeRobot data set is read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from foveate.util.files import write_text
from foveate.util.progress import ProgressBar, plain_console


@dataclass(frozen=True)
class BenchLoaderConfig:
    """Samples per second of a LeRobot data set by decoding processes, beside lerobot's own loader."""

    dataset: str
    """The data set: a folder, or OWNER/NAME of the hub."""
    workers: tuple[int, ...] = (1, 2)
    """Numbers of decoding processes to try, in turn."""
    samples: int = 2000
    """Rows that are read in each measurement, at most."""
    batch_size: int = 32
    """Rows of a batch."""
    image_size: int = 224
    """Side of the pictures that foveate hands out, in pixels."""
    memory_gb: float = 1.0
    """Memory for decoded pictures, in GB."""
    peer: str | None = None
    """Python interpreter that has lerobot, for its own rows; null: none."""
    json: str | None = None
    """File that the JSON document is written to as well; null: it is printed alone."""


def loader(argv: list[str]) -> int:
    """The verb's entry: a table, then one JSON document."""
    from rich.table import Table

    from foveate.bench.loader import measure
    from foveate.cli.config import parse
    from foveate.data.lerobot.hub import find_dataset
    from foveate.util.provenance import provenance

    config = parse(BenchLoaderConfig, argv, "foveate bench loader", positional=("dataset",))
    total = len(config.workers) * (1 if config.peer is None else 2)
    with ProgressBar(plain_console(), "bench loader", "measurements", total) as bar:
        rows = measure(
            find_dataset(config.dataset),
            config.workers,
            samples=config.samples,
            batch=config.batch_size,
            size=config.image_size,
            memory_gb=config.memory_gb,
            peer=config.peer,
            step=bar.advance,
        )
    table = Table("loader", "workers", "samples/s")
    for row in rows:
        table.add_row(row.loader, str(row.workers), f"{row.samples_per_s:.0f}")
    plain_console().print(table)
    values = [{**asdict(row), "samples_per_s": row.samples_per_s} for row in rows]
    document = json.dumps({"dataset": config.dataset, "rows": values, **provenance()}, indent=2)
    print(document)
    if config.json:
        write_text(Path(config.json), document + "\n")
    return 0
