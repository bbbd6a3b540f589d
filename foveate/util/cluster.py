"""Work over a Ray cluster: each worker loads its model once and takes the next piece when it has done one.

Workers must see models, data and outputs under the driver's paths. `RAY_ADDRESS` names the cluster; without it, Ray
starts on this machine. A worker asks for a GPU where its device is one, else for a CPU core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from foveate.errors import FoveateError

Item = TypeVar("Item")
Result = TypeVar("Result")


def require_ray(option: str) -> Any:
    """Ray itself.

    Raises:
        FoveateError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise FoveateError(f'{option}: Ray is not installed ({error}); run: pip install "foveate[ray]"') from error
    return ray


class Worker:
    """Lives in a process of the cluster."""

    def __init__(self, make: Callable[[Any], Callable[[Any], Any]], config: Any) -> None:
        self._call = make(config)

    def work(self, place: int, item: Any) -> tuple[int, Any]:
        return place, self._call(item)


def over_ray(
    make: Callable[[Any], Callable[[Item], Result]],
    config: Any,
    todo: Sequence[Item],
    *,
    device: str,
    option: str,
    most: int | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Each piece of work with its result, as it ends.

    Args:
        make: called once in each worker with `config`; what it returns is called with one piece at a time.
        device: of the model; `cpu`, or one that needs a GPU.
        option: the command line's word for all this, named in errors.
        most: workers at most; None: as many as the cluster has cores or GPUs.
    Raises:
        FoveateError: Ray is not installed, the cluster has no room for a worker, or a worker failed.
    """
    ray = require_ray(f"{option} ray")
    if not todo:
        return
    from ray.util import ActorPool

    begun_here = not ray.is_initialized()
    if begun_here:
        ray.init(log_to_driver=False)
    try:
        kind = "CPU" if device == "cpu" else "GPU"
        room = int(ray.cluster_resources().get(kind, 0))
        if room < 1:
            raise FoveateError(f"{option} ray: the cluster has no {kind} ({dict(ray.cluster_resources())})")
        actor = ray.remote(**{f"num_{kind.lower()}s": 1})(Worker)
        pool: Any = ActorPool([actor.remote(make, config) for _ in range(min(room, len(todo), most or room))])
        for place, result in pool.map_unordered(lambda worker, pair: worker.work.remote(*pair), enumerate(todo)):
            yield todo[place], result
    except ray.exceptions.RayError as error:
        raise FoveateError(f"{option} ray: a worker failed: {cause(error)}") from error
    finally:
        if begun_here:
            ray.shutdown()


def cause(error: Exception) -> str:
    """The last line of what a worker said: its own error, not Ray's account of how it came here."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
