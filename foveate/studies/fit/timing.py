"""Milliseconds of every variant on this machine, in turn, with the engine asked for.

Variants of one budget share an engine: their prefixes are equally long, and so is what it compiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foveate.bench.clock import Rounds, sample
from foveate.bench.variants import Variant, set_up
from foveate.engine.base import Engine
from foveate.engine.config import Eager
from foveate.engine.gate import engine_for
from foveate.policy import Policy
from foveate.types import ActionChunk, Observation
from foveate.util.noise import action_noise
from foveate.util.progress import Reporter

ROUNDS = Rounds(least=7, most=15, share=0.05, warmup=1)


@dataclass(frozen=True)
class Timed:
    """Medians of one variant, in milliseconds."""

    total: float
    stages: dict[str, float]
    """vision, prune, prefill, denoise."""
    as_written: bool = False
    """Whether it ran without what the engine prepares: it looks inside of the layers, or has another length."""


def time_variants(
    policy: Policy,
    folder: Path,
    engine: Eager,
    groups: Sequence[Sequence[str]],
    observation: Observation,
    report: Reporter,
) -> dict[str, Timed]:
    """Label -> its times on one observation.

    Args:
        folder: of the checkpoint, which may say what lengths its engine prepares.
        groups: labels that share an engine.
    """
    runs = {}
    noise = action_noise(policy.spec.noise_shape, 0)

    def asking(one: Policy) -> Callable[[], ActionChunk]:
        return lambda: one.infer(observation, noise, session="timing")

    for labels in groups:
        shared = engine_for(policy.engine.model, engine, folder)
        for i, label in enumerate(labels):
            one = set_up(policy, Variant(engine.label, label, policy.spec.num_steps), shared)
            if i == 0 and not engine.exact:
                one.prepare(report)
            runs[label] = one
    with report.bar("timing", "rounds", ROUNDS.most) as bar:
        taken = sample(
            {label: asking(one) for label, one in runs.items()},
            lambda chunk: chunk.timings_ms["total"],
            ROUNDS,
            lambda done, widest: bar.advance(int(done > 0)),
        )
    timed = {}
    for label, chunks in taken.items():
        ms = {name: float(np.median([chunk.timings_ms[name] for chunk in chunks])) for name in chunks[0].timings_ms}
        timed[label] = Timed(ms.pop("total"), ms, _runs_as_written(runs[label].engine, asking(runs[label])))
    return timed


def _runs_as_written(engine: Engine, ask: Callable[[], ActionChunk]) -> bool:
    """Whether the engine counts one more query, or part of one, that ran as written."""
    before = engine.report()
    ask()
    after = engine.report()
    return any(after.get(name) != before.get(name) for name in ("queries_as_written", "parts_as_written"))
