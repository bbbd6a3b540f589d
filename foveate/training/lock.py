"""One training per folder: two that write the same checkpoints would spoil both."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from foveate.errors import FoveateError
from foveate.util.world import World

NAME = ".training"


@contextlib.contextmanager
def sole_training(folder: Path, world: World) -> Iterator[None]:
    """Hold the folder; the system lets go of it when the process ends, however it ends.

    Args:
        world: the processes that train together; the leading one holds it for all.
    Raises:
        FoveateError: another process trains there.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        fcntl = None  # type: ignore[assignment]
    if fcntl is None or not world.is_main:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise FoveateError(
                f"{folder}: process {file.read().strip() or '?'} is training there; wait for it, end it (processes of "
                "a killed torchrun may go on by themselves), or name another folder"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
