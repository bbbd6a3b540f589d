"""Processes that end with the one that started them, however it ends; the standard library alone."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """From now on the kernel kills this process when the thread that started it ends: one that hangs in C or is
    stopped (SIGSTOP) goes as well. Where the system is no Linux, nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def kill_group(pid: int) -> None:
    """Kill the process that leads a group, with all that it has started in it."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
