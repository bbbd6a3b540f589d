"""`foveate attn objects`: how much of the attention lies on objects, layer by layer, and how much would by chance.

    foveate attn objects EPISODE --maps results --masks EPISODE/recordings/masks --out objects     # pictures and videos
    foveate attn objects DATA_ROOT --maps results --out objects                                    # the aggregate

Exit status 1: some episodes failed; each is named with its reason, the others are done.
"""

from __future__ import annotations

from typing import Any

from foveate.cli.attn.output import POLICY
from foveate.util.progress import Reporter, plain_console
from foveate.util.words import plural


def objects(argv: list[str]) -> int:
    """The verb."""
    from foveate.cli.config import parse
    from foveate.studies.attention.objects import ObjectsConfig, study_objects

    config = parse(ObjectsConfig, argv, "foveate attn objects", aliases=POLICY, positional=("data_root",))
    screen = Reporter(plain_console())
    done = study_objects(config, screen)
    for view in dict.fromkeys(row["view"] for row in done.result["rows"]):
        screen.show(_table(done.result, view))
    counts = {s: sum(o.status == s for o in done.outcomes) for s in ("done", "skipped", "failed")}
    screen.line(", ".join(f"{plural(count, 'episode')} {status}" for status, count in counts.items()))
    screen.line(f"results: {done.folder / 'objects.json'}, {done.folder / 'objects.md'}")
    return int(counts["failed"] > 0)


def _table(result: dict[str, Any], view: str) -> Any:
    """A row per layer: each metric with its null."""
    from rich.table import Table

    from foveate.attention.objects import METRICS
    from foveate.viz.report.objects import number

    episodes = plural(len(result["episodes"]), "episode")
    caption = f"mean over {episodes}, {result['target']}; in brackets: the same map shuffled"
    table = Table(title=f"{view}, {result['phase']}", caption=caption)
    table.add_column("layer", justify="right")
    for metric in METRICS:
        table.add_column(metric, justify="right", no_wrap=True)
    table.add_column("p (overlap)", justify="right", no_wrap=True)
    rows = {(row["layer"], row["metric"]): row for row in result["rows"] if row["view"] == view}
    for layer in dict.fromkeys(layer for layer, _ in rows):
        cells = [f"{number(rows[layer, m]['mean'])} ({number(rows[layer, m]['shuffled'])})" for m in METRICS]
        table.add_row(str(layer), *cells, number(rows[layer, "overlap"]["p_holm"]))
    return table
