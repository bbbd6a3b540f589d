"""The evidence of served inferences, as a run folder that `foveate trace` and `foveate view` read: bounded, so that a
server may run for weeks."""

from __future__ import annotations

from pathlib import Path

from foveate.policy import Policy
from foveate.serving.queries import Query
from foveate.tracing.store import TraceStore, dump_paths
from foveate.types import ActionChunk

TASK = "served"


class ServedTrace:
    """Writes each inference as a step of its session's episode; a worker's `witness`.

    Args:
        folder: the run folder; episodes of an earlier server in it stay, and new ones are counted on.
        max_dumps: inferences that are kept, at most, spread over episodes.
    Raises:
        FoveateError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path, max_dumps: int, policy: Policy) -> None:
        spec = policy.spec
        self._store = TraceStore(
            folder, max_dumps, views=spec.cameras, model_image_size=spec.image_size, model_crop=spec.crop
        )
        self._policy = spec.name
        self._episodes: dict[str, tuple[int, int]] = {}
        """Session -> its episode and the next step of it."""
        self._next = 1 + max(
            (int(path.parent.name.removeprefix("ep")) for path in dump_paths(Path(folder))), default=-1
        )

    def inferred(self, query: Query, chunk: ActionChunk) -> None:
        if chunk.trace is None:
            return
        if query.reset or query.session not in self._episodes:
            self._episodes[query.session] = (self._next, 0)
            self._next += 1
        episode, step = self._episodes[query.session]
        self._episodes[query.session] = (episode, step + 1)
        meta = {
            "task_suite": TASK,
            "task": TASK,
            "task_id": 0,
            "episode": episode,
            "step": step,
            "query": step,
            "instruction": query.observation.prompt,
            "checkpoint": self._policy,
            "variant": TASK,
            "seed": 0,
        }
        self._store.submit(chunk.trace, query.observation, meta, chunk.actions)

    def forget(self, session: str) -> None:
        """A session is over."""
        self._episodes.pop(session, None)

    def close(self) -> list[str]:
        """Write what waits; what went wrong."""
        self._store.close()
        return list(self._store.warnings)
