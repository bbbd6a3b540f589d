"""Passes spread over a Ray cluster. The driver alone writes the cache, so the files are those of a single process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from foveate.evaluation.vqa.passes import PassOptions, PrunedPass, Work, make_rows, plan
from foveate.types import VQASample
from foveate.util.cluster import over_ray

if TYPE_CHECKING:
    from foveate.evaluation.vqa.config import VqaConfig
    from foveate.evaluation.vqa.matrix import Experiment

Rows = list[tuple[str, list[dict[str, Any]]]]


def make_worker(config: VqaConfig, options: PassOptions) -> Callable[[Work], Rows]:
    """One process of the cluster with the model in it."""
    from foveate.evaluation.vqa.load import load_model

    vlm = load_model(config)
    return lambda work: list(make_rows(vlm, work, options))


def run_on_ray(
    experiment: Experiment,
    samples: Sequence[VQASample],
    needs: Iterable[str],
    pruned: Sequence[PrunedPass],
    on_plan: Callable[[int], None],
    on_answers: Callable[[int], None],
) -> None:
    """Make what the cache lacks, on as many workers as the cluster has GPUs (on CPU, at most `eval.ray_workers`).

    Raises:
        FoveateError: what `over_ray` raises.
    """
    from foveate.evaluation.vqa.matrix import passes_of

    config = experiment.config
    limit = experiment.options.max_pixels
    batches = plan(samples, experiment.cache, passes_of(needs), pruned, config.eval.batch_size, limit)
    todo = [work for work in batches if work.answers]
    on_plan(sum(work.answers for work in todo))
    most = config.eval.ray_workers if config.model.device == "cpu" else None
    make = partial(make_worker, options=experiment.options)
    for _, passes in over_ray(make, config, todo, device=config.model.device, option="eval.workers:", most=most):
        for name, rows in passes:
            experiment.cache.add(name, rows)
            on_answers(len(rows))
