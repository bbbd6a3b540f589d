"""What the whole path of an answer takes, in FLOPs and milliseconds: text-first pass, encoder, answer.

    costs = measure(vlm, scored, ways(scored), options, limit=8)
    add_path(rows, costs)                       # columns gflops, gflops_share, path_ms, path_ms_share

`avg_cost` counts looks alone. A rule that reads the question first pays for that, too, and an answer without a look is
not free. Each pass is executed for a few questions spread over the set, one at a time, as a user would wait for it; a
row is looked up from the means of the passes on its way. FLOPs are counted by torch (matrix products, convolutions and
attention; a multiplication and an addition are two). The head itself is not in it: less than 1 % of the text pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from foveate.evaluation.vqa.passes import TEXT_PASS, PassOptions, PrunedPass, VLMLike, answer_pass
from foveate.evaluation.vqa.profile import spread, synchronize
from foveate.evaluation.vqa.rows import RuleResult
from foveate.evaluation.vqa.scored import PrunedOutcomes, ScoredPasses
from foveate.types import LEVELS, VQASample

PATH_COLUMNS = ("gflops", "gflops_share", "path_ms", "path_ms_share")
AFTER_TEXT = " after text"
"""What a way is called that goes on from the text-first pass."""


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Of the scores and of their weighted sum; all keys are computed, masked ones too."""
    batch, heads, rows, width = query
    return 2 * batch * heads * rows * key[-2] * (width + value[-1])


CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
"""What torch's counter leaves out."""


@dataclass
class PathCosts:
    """Way (`text`, `FULL`, `FULL after text`, `FULL@stride0500`) -> its mean over some questions."""

    questions: int
    gflops: dict[str, float] = field(default_factory=dict)
    ms: dict[str, float] = field(default_factory=dict)


def ways(scored: ScoredPasses) -> list[str]:
    """The passes of a data set, alone and, where the text was read first, behind that; FULL is always among them."""
    made = [name for name in LEVELS if name in scored.answers or name == "FULL"]
    behind = [name + AFTER_TEXT for name in made] if TEXT_PASS in scored.answers else []
    return [*([TEXT_PASS] if behind else []), *made, *behind, *(look.spec.name for look in scored.pruned)]


def measure(
    vlm: VLMLike, scored: ScoredPasses, names: Sequence[str], options: PassOptions, limit: int, into: PathCosts
) -> None:
    """Execute these ways, in turns, on `limit` questions spread over the set, once to count and once to time."""
    chosen = [scored.samples[i] for i in spread(len(scored), limit)]
    looks = {look.spec.name: look.spec for look in scored.pruned}
    flops, seconds = (np.zeros((len(chosen), len(names))) for _ in range(2))
    for row, sample in enumerate(chosen):
        for turn in range(len(names)):
            column = (turn + row) % len(names)
            with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
                step = _way(vlm, sample, names[column], looks, options)
                before = counter.get_total_flops()
                step()
            flops[row, column] = counter.get_total_flops() - before
            step = _way(vlm, sample, names[column], looks, options)
            synchronize()
            start = time.perf_counter()
            step()
            synchronize()
            seconds[row, column] = time.perf_counter() - start
    into.gflops |= dict(zip(names, (flops.mean(0) / 1e9).tolist(), strict=True))
    into.ms |= dict(zip(names, (1e3 * seconds.mean(0)).tolist(), strict=True))


def _way(
    vlm: VLMLike, sample: VQASample, name: str, looks: Mapping[str, PrunedPass], options: PassOptions
) -> Callable[[], object]:
    """What is counted and timed of a way; what it goes on from is done before."""
    if name == TEXT_PASS:
        return lambda: vlm.text_pass([sample])
    text: Any = vlm.text_pass([sample]) if name.endswith(AFTER_TEXT) and options.reuse else None
    return lambda: answer_pass(vlm, [sample], name.removesuffix(AFTER_TEXT), looks, options, text)


def add_path(rows: Sequence[RuleResult], costs: PathCosts) -> None:
    """Fill the columns of the rows of one data set; a share is that of always FULL's path."""
    for item in rows:
        for table, name, share in ((costs.gflops, "gflops", "gflops_share"), (costs.ms, "path_ms", "path_ms_share")):
            value, whole = along(item, table), table.get("FULL", 0.0)
            if value is not None and whole > 0:
                item.row.update({name: value, share: value / whole})


def along(item: RuleResult, table: Mapping[str, float]) -> float | None:
    """Mean per question of what a row's way takes; None where a pass of it is not in the table."""
    rule = item.rule
    if isinstance(rule, PrunedOutcomes):
        return table.get(rule.spec.name)
    reads = TEXT_PASS in getattr(rule, "needs", ())
    taken = {TEXT_PASS: 1.0} if reads else {}
    rates = item.paid.mean(0)
    taken |= {level + AFTER_TEXT * reads: float(rate) for level, rate in zip(LEVELS, rates, strict=True) if rate != 0}
    return sum(rate * table[name] for name, rate in taken.items()) if taken.keys() <= table.keys() else None
