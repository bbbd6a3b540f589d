"""What was measured beside what was aimed at and what the machine needs at least.

    python benchmarks/gpu/targets.py exact.json fp8.json         # documents of `foveate bench latency`

The floor is the machine's own, measured in the same run: products at the rate of its fastest bfloat16 one, or reading
the weights, whichever takes longer, stage by stage.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Target:
    """Milliseconds of π0.5 (two cameras, 40-token prompt, chunk 50, batch 1) on an H100 or H200."""

    what: str
    fp8: bool
    pruning: str
    steps: int
    accept: float
    stretch: float | None = None


TARGETS = (
    Target("bf16, ten steps", False, "none", 10, 18, 12),
    Target("bf16, one step", False, "none", 1, 6.5),
    Target("fp8, 75 % pruned, ten steps", True, "random_0.25", 10, 12, 8),
)


def measured(documents: list[dict[str, Any]], target: Target) -> dict[str, Any] | None:
    """The fastest row for a target; None: there is none."""
    rows = [
        row
        for document in documents
        for row in document["rows"]
        if (row["pruning"], row["denoising_steps"]) == (target.pruning, target.steps)
        and ("fp8" in row["engine"]) == target.fp8
        and (row["engine"] != "eager" or target.fp8)
    ]
    return min(rows, key=lambda row: row["policy_ms"]["p50"], default=None)


def main() -> int:
    documents = [json.loads(Path(name).read_text()) for name in sys.argv[1:] if Path(name).exists()]
    for target in TARGETS:
        row = measured(documents, target)
        aims = f"accept {target.accept:g} ms" + (f", stretch {target.stretch:g}" if target.stretch else "")
        if row is None:
            print(f"{target.what}: not measured; {aims}")
            continue
        ms, model, floor = row["policy_ms"]["p50"], row["model_ms"]["p50"], row["floor_ms"]["total"]
        reached = [
            name for name, most in (("accept", target.accept), ("stretch", target.stretch)) if most and ms <= most
        ]
        print(
            f"{target.what}: {ms:.1f} ms (model alone {model:.1f}, floor {floor:.1f}, {row['tokens_before']} tokens, "
            f"{row['tokens_after']} after pruning) by {row['engine']}; {aims}: {' and '.join(reached) or 'missed'}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
