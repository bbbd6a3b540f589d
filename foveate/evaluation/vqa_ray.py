"""Passes spread over a Ray cluster: every worker loads the model once and takes whole batches.

The driver alone writes the cache, so the files are those of a single process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from foveate.errors import FoveateError
from foveate.evaluation.vqa_passes import PassOptions, Thinned, Work, make_rows, plan
from foveate.types import VQASample

if TYPE_CHECKING:
    from foveate.evaluation.vqa import Experiment
    from foveate.evaluation.vqa_config import VqaConfig

Rows = list[tuple[str, list[dict[str, Any]]]]


class Worker:
    """One process of the cluster with the model in it."""

    def __init__(self, config: VqaConfig) -> None:
        from foveate.evaluation.vqa_load import load_model

        self.vlm = load_model(config)

    def rows(self, work: Work, options: PassOptions) -> Rows:
        return list(make_rows(self.vlm, work, options))


def run_on_ray(
    experiment: Experiment,
    samples: Sequence[VQASample],
    needs: Iterable[str],
    thinned: Sequence[Thinned],
    on_plan: Callable[[int], None],
    on_answers: Callable[[int], None],
) -> None:
    """Make what the cache lacks, on as many workers as the cluster has GPUs (or, without any, `eval.ray_workers`).

    Raises:
        FoveateError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise FoveateError(
            'eval.workers: ray needs Ray: pip install "foveate[ray]"; or use eval.workers: local, or torchrun'
        ) from error
    from foveate.evaluation.vqa import passes_of

    config = experiment.config
    batches = plan(samples, experiment.cache, passes_of(needs), thinned, config.eval.batch_size)
    todo = [work for work in batches if work.answers]
    on_plan(sum(work.answers for work in todo))
    if not todo:
        return
    if not ray.is_initialized():
        ray.init()
    gpus = int(ray.cluster_resources().get("GPU", 0)) if config.model.device.startswith("cuda") else 0
    actor = ray.remote(num_gpus=1 if gpus else 0, num_cpus=1)(Worker)
    workers = [actor.remote(config) for _ in range(min(gpus or config.eval.ray_workers, len(todo)))]
    waiting = {
        worker.rows.remote(work, experiment.options): worker for worker, work in zip(workers, todo, strict=False)
    }
    left = iter(todo[len(workers) :])
    while waiting:
        (ready,), _ = ray.wait(list(waiting), num_returns=1)
        worker = waiting.pop(ready)
        for name, rows in ray.get(ready):
            experiment.cache.add(name, rows)
            on_answers(len(rows))
        following = next(left, None)
        if following is not None:
            waiting[worker.rows.remote(following, experiment.options)] = worker
