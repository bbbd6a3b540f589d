"""Latency and memory of a row, by really going its way: text-first pass, router, and every look that the rule pays for.

Question by question, as a user would wait for them. A row's other numbers are look-ups; these cannot be.
"""

from __future__ import annotations

import contextlib
import dataclasses
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from foveate.evaluation.vqa.cache import pack_hidden, unpack_hidden
from foveate.evaluation.vqa.passes import PassOptions, VLMLike, answer_pass
from foveate.evaluation.vqa.rows import RuleResult
from foveate.evaluation.vqa.scored import PrunedOutcomes, ScoredPasses
from foveate.vision_value.config import LEVELS
from foveate.vision_value.outcomes import Outcomes

if TYPE_CHECKING:
    from foveate.models.vlm.model import Answer

WARM_UP = 3
"""Questions that are answered before the clock counts."""
ROUTED_BY_TEXT = ("", "uncertainty_threshold", "string_lookup")
"""Rules that decide question by question from the text: they are asked again, inside the clock."""


@dataclasses.dataclass(frozen=True)
class Profile:
    """One row, executed."""

    answers: tuple[Answer, ...]
    """Of the questions that were timed."""
    seconds: tuple[float, ...]
    memory_mib: float
    """Peak: of the device where it is one, else of the process."""
    rerouted: int
    """Questions that the router sent elsewhere than the look-up says (rounding, batch of one)."""


def profile_row(
    vlm: VLMLike,
    scored: ScoredPasses,
    result: RuleResult,
    options: PassOptions,
    limit: int,
    on_question: Callable[[], None] | None = None,
) -> Profile:
    """Execute a row's way on the first `limit` questions; the first `WARM_UP` are done twice.

    Fills `latency` (mean seconds per question), `latency_p95` and `mem` (MiB) of the row.
    """
    count = min(limit, len(scored))
    order = [*range(min(WARM_UP, count)), *range(count)]
    answers, seconds, rerouted = [], [], 0
    reset_peak()
    for step, i in enumerate(order):
        synchronize()
        start = time.perf_counter()
        answer, action = execute(vlm, scored, result, options, i)
        synchronize()
        elapsed = time.perf_counter() - start
        if step >= len(order) - count:
            answers.append(answer)
            seconds.append(elapsed)
            rerouted += action != int(result.decisions.action[i])
            if on_question:
                on_question()
    profile = Profile(tuple(answers), tuple(seconds), peak_mib(), rerouted)
    result.row["latency"] = float(np.mean(seconds))
    result.row["latency_p95"] = float(np.percentile(seconds, 95))
    result.row["mem"] = profile.memory_mib
    return profile


def execute(vlm: VLMLike, scored: ScoredPasses, result: RuleResult, options: PassOptions, i: int) -> tuple[Answer, int]:
    """Answer question i as the rule would: its answer, and the action taken."""
    sample, rule = scored.samples[i], result.rule
    if isinstance(rule, PrunedOutcomes):
        spec = rule.spec
        return answer_pass(vlm, [sample], spec.name, {spec.name: spec}, options, None)[0], 2
    reuse: Any = None
    path = np.flatnonzero(result.decisions.paid[i])
    if "text" in rule.needs:
        text = vlm.text_pass([sample])
        reuse = text if options.reuse else None
        if rule.name in ROUTED_BY_TEXT:
            path = np.flatnonzero(rule.decide(_live(scored.outcomes, i, text)).paid[0])
    answers = [answer_pass(vlm, [sample], LEVELS[level], {}, options, reuse)[0] for level in path]
    return answers[-1], int(path[-1])


def _live(outcomes: Outcomes, i: int, text: Any) -> Outcomes:
    """One question, with the features of the pass that has just been made; token counts are known from the sizes."""
    hidden = unpack_hidden(pack_hidden(text.hidden[0].float().cpu().numpy()))
    return dataclasses.replace(
        outcomes.take(np.array([i])),
        hidden=hidden[None],
        entropy=text.entropy[:1].double().cpu().numpy(),
        margin=text.margin[:1].double().cpu().numpy(),
    )


def synchronize() -> None:
    """Wait for the device, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset_peak() -> None:
    """Begin to measure peak memory."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts again


def peak_mib() -> float:
    """Peak memory in MiB: of the CUDA device where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
