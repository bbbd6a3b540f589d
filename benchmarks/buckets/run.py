"""What static shapes cost a pruned prefix: processor time at its bucket over that at its exact length.

    python benchmarks/buckets/run.py --out benchmarks/buckets/results.json

π0 of 65 million random weights, two cameras of 256 patches of which a query keeps between 10 and 100 %, a prompt of 20
to 48 tokens. Two lists of buckets: the one that an engine spreads by itself, and the one that `foveate engine plan`
makes of these lengths. Eager prefills run exact and padded in turn: padding costs compiled ones the same products. What
a query pays for its choice (asking for the count, looking the length up, padding) is timed alone. One thread; prints
one JSON document.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foveate.bench.clock import Rounds, sample
from foveate.engine.buckets import Buckets
from foveate.engine.plan import plan
from foveate.engine.staged import spans_of
from foveate.models.base import ModelInputs, pack
from foveate.models.common.layers import transpose_storage
from foveate.models.pi0.model import Pi0
from foveate.pruning import make_pruner
from foveate.training.policy.untrained import SIZES
from foveate.types import Prefix
from foveate.util.files import write_text
from foveate.util.provenance import provenance

QUERIES = 8
ROUNDS = Rounds(3, 3, warmup=1)


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


def padding(model: Pi0, queries: Sequence[Prefix], lengths: Sequence[int]) -> dict[str, Any]:
    """Padding in slots and in time, over all queries."""
    buckets, runs = Buckets(lengths, most=64), {}
    for i, query in enumerate(queries):
        for name, packed in ((f"{i} exact", pack(query)), (f"{i} padded", buckets.pack(query))):
            runs[name] = _prefill(model, packed)
    taken = {name: float(np.median(ms)) for name, ms in sample(runs, lambda ms: ms, ROUNDS).items()}
    exact, padded = (sum(ms for name, ms in taken.items() if name.endswith(end)) for end in ("exact", "padded"))
    slots = buckets.report()["padding"]
    return {"queries": len(queries), "exact_ms": exact, "padded_ms": padded, "slots": slots, "time": padded / exact - 1}


def _prefill(model: Pi0, packed: Prefix) -> Callable[[], float]:
    def timed() -> float:
        start = time.process_time()
        model.prefill(packed)
        return 1e3 * (time.process_time() - start)

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
            start = time.process_time()
            job(queries[i % len(queries)])
            times[name].append(1e3 * (time.process_time() - start))
    return {name: float(np.median(taken)) for name, taken in times.items()}


@torch.inference_mode()
def measure() -> dict[str, Any]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Pi0(SIZES["pi0_mid"]).eval()
    transpose_storage(model)
    whole, queries = make_queries(model)
    lengths = [int(query.mask.sum()) for query in queries]
    spread = Buckets().to_prepare("lightvla", spans_of(whole, make_pruner("lightvla")))
    planned = plan(lengths).buckets
    return {
        "lengths": lengths,
        "spread": {"buckets": spread, **padding(model, queries, spread)},
        "planned": {"buckets": planned, **padding(model, queries, planned)},
        "choice": choice(queries, planned),
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
