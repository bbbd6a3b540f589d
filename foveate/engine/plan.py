"""Which prefix lengths a static-shape prefill should be prepared for, out of the lengths that were seen.

    made = plan(lengths_of("runs/try"), most=8)
    made.buckets, made.padding
    write_plan(Path("path/to/policy"), "lightvla", made.buckets)   # that policy's default from now on

The choice is the best one: of all sets of so many lengths the one with the least padding, by dynamic programming.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from foveate.engine.buckets import ANY, LONGEST, MOST_WASTE, aligned, check_lengths
from foveate.errors import FoveateError
from foveate.models.base import ModelOptions, ModelSpec
from foveate.models.registry import detect
from foveate.pruning import label, make_config
from foveate.tracing.tokens import write_token_log
from foveate.util.checks import of_type, whole
from foveate.util.files import write_text

FILE = "engine.json"
"""In a policy's folder: `{"buckets": {"lightvla": [...], "random_0.25": [...]}}`, or one list for every pruning."""


@dataclass(frozen=True)
class Plan:
    """Buckets, and what they cost on the lengths that they were made of."""

    buckets: tuple[int, ...]
    padding: float
    """Padding over all queries, as a share of their real tokens."""
    queries: tuple[int, ...]
    """Queries that fall into each bucket."""
    bucket_padding: tuple[float, ...]
    """The share of padding within each bucket."""


def plan(lengths: Sequence[int], most: int = 8, waste: float = MOST_WASTE, align: int = 1) -> Plan:
    """The fewest buckets whose padding is at most `waste`, or the best of `most`.

    Args:
        lengths: tokens of each query's prefix.
        align: every bucket is a multiple of it: of the matrix tile, on a GPU.
    Raises:
        FoveateError: there are no lengths.
    """
    if not lengths:
        raise FoveateError("no prefix lengths to plan for")
    # Real tokens by the bucket that they would need for themselves.
    queries: Counter[int] = Counter()
    real: Counter[int] = Counter()
    for length in lengths:
        top = aligned(whole("prefix length", length, 1, LONGEST), align)
        queries[top] += 1
        real[top] += length
    tops = sorted(queries)
    total, n = sum(real.values()), len(tops)
    count = np.cumsum([0, *(queries[top] for top in tops)])
    # best[i]: slots of the first i tops in so many buckets, each as long as the last top that falls into it.
    best = np.array([0.0] + [np.inf] * n)
    cuts: list[np.ndarray] = []
    for _ in range(min(most, n)):
        cost = best[:, None] + (count[None, :] - count[:, None]) * np.array([0, *tops])[None, :]
        cost[np.tril_indices(n + 1)] = np.inf
        cuts.append(cost.argmin(0))
        best = cost.min(0)
        if best[n] <= total * (1 + waste):
            break
    buckets, end = [], n
    for cut in reversed(cuts):
        buckets.append(tops[end - 1])
        end = int(cut[end])
    buckets.reverse()
    edges = [0, *buckets]
    inside = [[top for top in tops if low < top <= high] for low, high in zip(edges, buckets, strict=False)]
    counts = [sum(queries[top] for top in group) for group in inside]
    tokens = [sum(real[top] for top in group) for group in inside]
    padding = [high * c / t - 1 for high, c, t in zip(buckets, counts, tokens, strict=True)]
    return Plan(tuple(buckets), float(best[n]) / total - 1, tuple(counts), tuple(padding))


def lengths_of(run: str | Path) -> list[int]:
    """The prefix length of every traced query of a run; of a pruner behind a layer also those that it saw.

    Raises:
        FoveateError: the folder holds no trace, or its trace tells no lengths.
    """
    rows = write_token_log(run).rows
    lengths = [row["post_seq_len"] for row in rows if "post_seq_len" in row]
    if _prunes_behind_a_layer(Path(run)):
        lengths += [row["pre_seq_len"] for row in rows if "pre_seq_len" in row]
    if not lengths:
        raise FoveateError(f"{run}: its dumps tell no post_seq_len; trace the run again with this version")
    return lengths


def _prunes_behind_a_layer(run: Path) -> bool:
    try:
        settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        return settings["pruner"]["layer"] is not None
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return False


def pruning_of(run: Path, policy: Path) -> str:
    """How a run of this policy pruned, as `pruning.label` has it.

    Raises:
        FoveateError: its config cannot be read.
    """
    try:
        said = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["pruner"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise FoveateError(f"{run}: its config.yaml does not tell how it pruned ({error!r})") from error
    if said is None:
        said = detect(policy, ModelOptions())[1].pruner
    return label(None if said is None else make_config(said))


def cache_mb(spec: ModelSpec, length: int) -> float:
    """MB that keys and values of a prefix of this length take, in float32."""
    return 4e-6 * length * spec.depth * spec.kv_width


def write_plan(policy: Path, pruning: str, buckets: Sequence[int]) -> None:
    """Make these a policy folder's default for one pruning (as `pruning.label` has it); the others' stay.

    Raises:
        CannotWrite: the folder cannot be written.
    """
    plans = {**read_plans(policy), pruning: check_lengths(buckets)}
    # A line for each pruning.
    lines = ",\n".join(f"  {json.dumps(name)}: {list(lengths)}" for name, lengths in sorted(plans.items()))
    write_text(policy / FILE, f'{{\n "buckets": {{\n{lines}\n }}\n}}\n')


def read_plans(policy: Path) -> dict[str, tuple[int, ...]]:
    """A policy folder's defaults: pruning -> lengths; empty: it has none.

    Raises:
        FoveateError: the file is damaged.
    """
    path = policy / FILE
    if not path.is_file():
        return {}
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FoveateError(f"{path}: cannot be read as JSON ({error}); remove it, or plan again") from error
    said = of_type(str(path), content, dict).get("buckets")
    plans = {ANY: said} if isinstance(said, list) else of_type(f"{path}: buckets", said, dict)
    where = f"{path}: buckets"
    return {name: check_lengths(of_type(where, lengths, list), where) for name, lengths in plans.items()}
