"""Numbers about a whole run: statistics and coverage of the token log, and what its dumps hold.

Reads records and rows; knows no files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foveate.tracing.lightvla import KINDS, ours
from foveate.tracing.schema import CAPABILITIES, leaves


def statistics(values: Sequence[float]) -> dict[str, float | int]:
    """Count, mean, standard deviation (of the population), extremes and percentiles."""
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        return {"count": 0}
    p50, p95 = np.percentile(data, [50, 95])
    numbers = {"mean": data.mean(), "std": data.std(), "min": data.min(), "p50": p50, "p95": p95, "max": data.max()}
    return {"count": int(data.size), **{name: round(float(value), 6) for name, value in numbers.items()}}


def flatten(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def summarize(rows: Sequence[Mapping[str, Any]], identity: Sequence[str]) -> dict[str, Any]:
    """Statistics of each number and coverage of each field over the rows of a token log.

    Args:
        identity: fields that name a row; they are covered, but have no statistics.
    """
    flat = [flatten(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    present = {name: [row[name] for row in flat if row.get(name) is not None] for name in names}
    numbers = [
        name for name in names if name not in identity and all(isinstance(v, int | float) for v in present[name])
    ]
    return {
        "inferences": len(rows),
        "episodes": len({(row.get("variant"), row["task_id"], row["episode"]) for row in rows}),
        "statistics": {name: statistics(present[name]) for name in numbers},
        "coverage": {
            name: {"count": len(present[name]), "ratio": round(len(present[name]) / len(rows), 6)} for name in names
        },
    }


def summarize_capabilities(held: Sequence[Mapping[str, bool]], layers: Sequence[Sequence[int]]) -> dict[str, Any]:
    """How many dumps hold each kind of evidence, and which attention layers there are.

    Args:
        held: `schema.capabilities` of each dump.
        layers: attention layers of each dump.
    """
    counts = Counter(name for capabilities in held for name, there in capabilities.items() if there)
    total = max(1, len(held))
    return {
        "capabilities": {
            name: {"available": counts[name] > 0, "count": counts[name], "ratio": round(counts[name] / total, 6)}
            for name in CAPABILITIES
        },
        "attn_layers": sorted({layer for dump in layers for layer in dump}),
    }


def summarize_fields(covered: Sequence[Mapping[str, Sequence[str]]]) -> dict[str, Any]:
    """What becomes of the fields of a run's dumps: name -> dumps that have it, and the schema's fields that none has.

    Args:
        covered: `lightvla.coverage` of each dump.
    """
    counts = {kind: Counter(path for fields in covered for path in fields[kind]) for kind in KINDS}
    found = {ours(path) for path in counts["read"]}
    return {
        **{kind: dict(sorted(counts[kind].items())) for kind in KINDS},
        "absent": [path for path in leaves() if path not in found],
    }
