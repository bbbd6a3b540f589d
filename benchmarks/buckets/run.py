"""What static shapes cost a pruned prefix: milliseconds at its bucket over milliseconds at its exact length.

    python benchmarks/buckets/run.py --out benchmarks/buckets/results.json        # compiles first, for minutes

π0 of 65 million random weights, two cameras of 256 patches of which a query keeps between 10 and 100 %, a prompt of 20
to 48 tokens. Two lists of buckets: the one that an engine spreads by itself, and the one that `foveate engine plan`
makes of these lengths. Prefills run exact and padded in turn, some of them compiled, too, each exact
length a callable of its own. What a query pays for its choice (asking for the count, looking the length up, padding)
is timed alone. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foveate.bench.clock import Rounds, sample
from foveate.engine.buckets import Buckets
from foveate.engine.compiled import CompiledParts, keep_code, no_compilation
from foveate.engine.plan import plan
from foveate.engine.staged import span_of
from foveate.models.base import ModelInputs, pack
from foveate.models.common.layers import Run, as_written, transpose_storage
from foveate.models.pi0.model import Pi0
from foveate.pruning import make_pruner
from foveate.training.policy.untrained import SIZES
from foveate.types import Prefix
from foveate.util.files import write_text
from foveate.util.provenance import provenance

QUERIES, COMPILED = 24, 6
"""Queries, and those that run compiled, too: their exact lengths take a compilation each."""
ROUNDS = Rounds(9, 9)


def make_queries(model: Pi0) -> tuple[Prefix, list[Prefix]]:
    """A whole prefix, and pruned ones before packing whose count nobody has told."""
    rng, views = np.random.default_rng(0), torch.tensor([[True, True, False]])
    pruned = []
    for _ in range(QUERIES):
        words = torch.ones(1, int(rng.integers(20, 49)), dtype=torch.bool)
        side, width = model.config.vision.image_size, model.config.action_dim
        inputs = ModelInputs(torch.rand(1, 3, 3, side, side), views, words.long(), words, torch.zeros(1, width))
        whole = model.embed_prefix(inputs)
        keep = torch.from_numpy(rng.random(whole.layout.num_patches) < rng.uniform(0.1, 1))[None]
        pruned.append(replace(whole, mask=whole.mask & torch.cat((keep, words), 1), at_most=None, full=False))
    return whole, pruned


def padding(model: Pi0, queries: Sequence[Prefix], lengths: Sequence[int], run: Run) -> dict[str, Any]:
    """Padding in slots and in time, over all queries."""
    buckets, runs = Buckets(lengths, most=64), {}
    for i, query in enumerate(queries):
        for name, packed in ((f"{i} exact", pack(query)), (f"{i} padded", buckets.pack(query))):
            runs[name] = _prefill(model, packed, run)
    with no_compilation() if run is not as_written else nullcontext():
        taken = {name: float(np.median(ms)) for name, ms in sample(runs, lambda ms: ms, ROUNDS).items()}
    exact, padded = (sum(ms for name, ms in taken.items() if name.endswith(end)) for end in ("exact", "padded"))
    slots = buckets.report()["padding"]
    return {"queries": len(queries), "exact_ms": exact, "padded_ms": padded, "slots": slots, "time": padded / exact - 1}


def _prefill(model: Pi0, packed: Prefix, run: Run) -> Callable[[], float]:
    def timed() -> float:
        start = time.perf_counter()
        model.prefill(packed, run=run)
        return 1e3 * (time.perf_counter() - start)

    return timed


def choice(queries: Sequence[Prefix], lengths: Sequence[int]) -> dict[str, float]:
    """Median milliseconds of what a query pays for its bucket."""
    buckets = Buckets(lengths, most=64)
    jobs: dict[str, Callable[[Prefix], Any]] = {
        "ask_and_choose_ms": lambda query: buckets.choose(int(query.mask.sum(1).max())),
        "pack_to_bucket_ms": buckets.pack,
        "pack_exactly_ms": pack,
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for i in range(200):
        for name, job in jobs.items():
            start = time.perf_counter()
            job(queries[i % len(queries)])
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(taken)) for name, taken in times.items()}


@torch.inference_mode()
def measure() -> dict[str, Any]:
    torch.manual_seed(0)
    model = Pi0(SIZES["pi0_mid"]).eval()
    transpose_storage(model)
    whole, queries = make_queries(model)
    lengths = [int(query.mask.sum()) for query in queries]
    spread = Buckets().to_prepare(span_of(whole, make_pruner("lightvla")))
    planned = plan(lengths).buckets
    keep_code()
    compiled, some, start = CompiledParts(freeze=False), queries[:COMPILED], time.perf_counter()
    with compiled.preparing():
        buckets = Buckets(planned, most=64)
        for query in some:
            model.prefill(pack(query), run=compiled)
            model.prefill(buckets.pack(query), run=compiled)
    return {
        "lengths": lengths,
        "compile_s": time.perf_counter() - start,
        "load_average_before": os.getloadavg(),
        "spread, eager": {"buckets": spread, **padding(model, queries, spread, as_written)},
        "planned, eager": {"buckets": planned, **padding(model, queries, planned, as_written)},
        "planned, compiled": {"buckets": planned, **padding(model, some, planned, compiled)},
        "choice": choice(queries, planned),
        "load_average_after": os.getloadavg(),
        "threads": torch.get_num_threads(),
        **provenance(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the JSON document there too")
    args = parser.parse_args()
    document = json.dumps(measure(), indent=1)
    print(document)
    if args.out:
        write_text(args.out, document + "\n")


if __name__ == "__main__":
    main()
