"""One training per folder: two that write the same checkpoints would spoil both."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from foveate.util.files import one_process
from foveate.util.world import World


def sole_training(folder: Path, world: World) -> AbstractContextManager[None]:
    """Hold the folder, see `one_process`.

    Args:
        world: the processes that train together; the main one holds it for all.
    Raises:
        FoveateError: another process trains there.
    """
    return one_process(folder, "training") if world.is_main else nullcontext()
