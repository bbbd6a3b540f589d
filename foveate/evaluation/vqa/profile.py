"""Latency and memory of rows, by really going their ways: text-first pass, router, and every look that a rule pays for.

Question by question, as a user would wait for them, on questions spread over the set. The rows take turns on each
question, so that a machine that grows slower or warmer does so for all of them. A row's other numbers are look-ups;
these cannot be.
"""

from __future__ import annotations

import contextlib
import dataclasses
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from foveate.evaluation.vqa.cache import pack_hidden, unpack_hidden
from foveate.evaluation.vqa.oracle import ChanceCorrected
from foveate.evaluation.vqa.passes import TEXT_PASS, PassOptions, VLMLike, answer_pass
from foveate.evaluation.vqa.rows import RuleResult
from foveate.evaluation.vqa.scored import PrunedOutcomes, ScoredPasses
from foveate.types import LEVELS
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

    questions: tuple[int, ...]
    """Positions in the set of the questions that were timed."""
    answers: tuple[Answer, ...]
    """Of these questions."""
    seconds: tuple[float, ...]
    memory_mib: float
    """Largest peak of one question."""
    memory_of: str
    """What that is the memory of."""
    rerouted: int
    """Questions that the router sent elsewhere than the look-up says (rounding, batch of one)."""


def profile_rows(
    vlm: VLMLike,
    scored: ScoredPasses,
    results: Sequence[RuleResult],
    options: PassOptions,
    limit: int,
    on_question: Callable[[], None] | None = None,
) -> list[Profile]:
    """Execute the ways of all rows on `limit` questions spread over the set; the first `WARM_UP` are done twice.

    Fills `latency` (mean seconds per question), `latency_p95`, `mem` (MiB) and `mem_of` of each row.
    """
    chosen = spread(len(scored), limit)
    for i in chosen[:WARM_UP]:
        for result in results:
            execute(vlm, scored, result, options, i)
    answers: list[list[Answer]] = [[] for _ in results]
    seconds, peaks = np.zeros((len(results), len(chosen))), np.zeros((len(results), len(chosen)))
    rerouted, kind = [0] * len(results), ""
    for step, i in enumerate(chosen):
        for turn in range(len(results)):
            row = (turn + step) % len(results)  # none of them always comes first
            kind = reset_peak()
            synchronize()
            start = time.perf_counter()
            answer, action = execute(vlm, scored, results[row], options, i)
            synchronize()
            seconds[row, step], peaks[row, step] = time.perf_counter() - start, peak_mib()
            answers[row].append(answer)
            rerouted[row] += action != int(results[row].decisions.action[i])
            if on_question:
                on_question()
    found = []
    for row, result in enumerate(results):
        times = tuple(seconds[row].tolist())
        found.append(Profile(chosen, tuple(answers[row]), times, float(peaks[row].max()), kind, rerouted[row]))
        result.row.update(
            latency=float(np.mean(times)),
            latency_p95=float(np.percentile(times, 95)),
            mem=found[-1].memory_mib,
            mem_of=kind,
        )
    return found


def profile_row(
    vlm: VLMLike,
    scored: ScoredPasses,
    result: RuleResult,
    options: PassOptions,
    limit: int,
    on_question: Callable[[], None] | None = None,
) -> Profile:
    """`profile_rows` of one row alone."""
    return profile_rows(vlm, scored, [result], options, limit, on_question)[0]


def executable(result: RuleResult) -> bool:
    """Whether somebody could go this row's way: what the oracle would pay for without luck is a calculation alone."""
    return not isinstance(result.rule, ChanceCorrected)


def spread(size: int, limit: int) -> tuple[int, ...]:
    """At most `limit` positions, evenly over a set of this size: its beginning may be of one subject, or easy."""
    count = min(limit, size)
    return tuple((2 * k + 1) * size // (2 * count) for k in range(count))


def execute(vlm: VLMLike, scored: ScoredPasses, result: RuleResult, options: PassOptions, i: int) -> tuple[Answer, int]:
    """Answer question i as the rule would: its answer, and the action taken."""
    sample, rule = scored.samples[i], result.rule
    if isinstance(rule, PrunedOutcomes):
        spec = rule.spec
        return answer_pass(vlm, [sample], spec.name, {spec.name: spec}, options, None)[0], 2
    if isinstance(rule, ChanceCorrected):
        raise ValueError("the oracle without lucky guesses has no way of its own")
    reuse: Any = None
    path = np.flatnonzero(result.decisions.paid[i])
    if TEXT_PASS in rule.needs:
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


def reset_peak() -> str:
    """Begin to measure peak memory anew; what `peak_mib` will be the memory of."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return "CUDA tensors, the model's weights among them"
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts again
        return "process on the CPU, with Python and the model's weights"
    return "process on the CPU, with Python and the model's weights, since it began"


def peak_mib() -> float:
    """Peak memory in MiB since `reset_peak`."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
