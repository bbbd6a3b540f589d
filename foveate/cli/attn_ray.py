"""`foveate attn episodes --workers ray`: episodes over the workers of a Ray cluster, the same files as one process.

Each worker loads the policy once and takes the next episode when it has done one. All workers must see the data root,
the policy and the output folders under the same paths. `RAY_ADDRESS` names the cluster; without it, Ray starts on this
machine. Each worker asks for a GPU where `--device` is one, else for a CPU core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.errors import FoveateError

if TYPE_CHECKING:
    from foveate.attention.episodes import Outcome
    from foveate.cli.attn_episodes import EpisodesConfig
    from foveate.data.droid_reader import Episode


class Worker:
    """Lives in a process of the cluster: one loaded policy."""

    def __init__(self, config: EpisodesConfig) -> None:
        from foveate.cli.attn_episodes import make_pipeline

        self._pipeline = make_pipeline(config)

    def work(self, folder: str, outcome: str) -> Outcome:
        """One episode from its pictures to its marker."""
        from foveate.data.droid_reader import Episode

        (ended,) = self._pipeline([Episode(Path(folder), outcome)])
        return ended


def run_on_ray(
    config: EpisodesConfig, episodes: Sequence[Episode], on_keyframes: Callable[[int], None]
) -> Iterator[Outcome]:
    """Hand out the episodes; what became of each, as it ends.

    Args:
        on_keyframes: called with the number of keyframes of each episode that has ended.
    Raises:
        FoveateError: Ray is not installed, the cluster has no room for a worker, or a worker cannot load the policy.
    """
    try:
        import ray
    except ImportError as error:
        raise FoveateError(f'--workers ray: Ray is not installed ({error}); run: pip install "foveate[ray]"') from error
    from foveate.data.droid_reader import Episode

    begun_here = not ray.is_initialized()
    if begun_here:
        ray.init(ignore_reinit_error=True, log_to_driver=False)
    try:
        kind = "CPU" if config.device == "cpu" else "GPU"
        room = int(ray.cluster_resources().get(kind, 0))
        if room < 1:
            raise FoveateError(f"--workers ray: the cluster has no {kind} ({dict(ray.cluster_resources())})")
        remote: Any = ray.remote(**({"num_cpus": 1} if kind == "CPU" else {"num_gpus": 1}))(Worker)
        idle = [remote.remote(config) for _ in range(min(room, len(episodes)))]
        todo = [Episode(episode.folder.resolve(), episode.outcome) for episode in episodes]
        running: dict[Any, tuple[Any, Episode]] = {}
        while todo or running:
            while todo and idle:
                worker, episode = idle.pop(), todo.pop(0)
                running[worker.work.remote(str(episode.folder), episode.outcome)] = (worker, episode)
            (ready, *_), _ = ray.wait(list(running))
            worker, episode = running.pop(ready)
            try:
                ended = ray.get(ready)
            except ray.exceptions.RayError as error:
                raise FoveateError(f"--workers ray: episode {episode.key}: a worker ended: {_cause(error)}") from error
            if ended.status != "failed":
                on_keyframes(len(range(0, episode.rows, config.keyframe_interval)))
            idle.append(worker)
            yield ended
    finally:
        if begun_here:
            ray.shutdown()


def _cause(error: Exception) -> str:
    """The last line of what the worker said: its own error, not Ray's account of how it came here."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
