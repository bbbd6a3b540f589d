"""Ports and open files of this machine."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from foveate.errors import FoveateError

LISTENS = "0A"
"""State of a listening socket in /proc/net/tcp."""


def holder_of(port: int) -> str | None:
    """Who listens on a port, as `python -m http.server (process 123)`; None: nobody, or the system does not tell."""
    inodes = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening(table, port)}
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        try:
            if any(os.readlink(file) in inodes for file in (process / "fd").iterdir()):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f"{command[:80]} (process {process.name})"
        except OSError:  # another user's, or gone
            continue
    return None


def check_port(host: str, port: int) -> int:
    """A port that can be listened on now: the one given, or for 0 one that is free.

    For those who open it much later: what is wrong is told at once.

    Raises:
        FoveateError: it is in use, or cannot be had.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            raise FoveateError(cannot_listen(host, port, error)) from error
        return int(probe.getsockname()[1])


def cannot_listen(host: str, port: int, error: OSError | OverflowError) -> str:
    """What to tell where a port cannot be had: who holds it, as far as the system says, and what to do."""
    reason = getattr(error, "strerror", None) or str(error)
    if "in use" not in reason.lower():
        return f"cannot listen on {host}:{port}: {reason}; --port chooses another, 0 a free one"
    by = f" by {holder}" if (holder := holder_of(port)) else ""
    return f"port {port} of {host} is in use{by}; choose another with --port (0: a free one), or end what holds it"


def _listening(table: str, port: int) -> list[str]:
    try:
        rows = [line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    except OSError:
        return []
    return [row[9] for row in rows if row[3] == LISTENS and int(row[1].rpartition(":")[2], 16) == port]


def allow_open_files(most: int = 1 << 16) -> int:
    """Let this process have as many open files as the system lets it, up to `most`, and say how many that are."""
    try:
        import resource
    except ImportError:  # Windows
        return 512
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return most if soft == resource.RLIM_INFINITY else soft
