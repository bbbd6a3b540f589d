"""How a policy is served."""

from __future__ import annotations

from dataclasses import dataclass

from foveate.errors import FoveateError
from foveate.policy import LoadOptions
from foveate.util.checks import number, whole


@dataclass(frozen=True, kw_only=True)
class ServeConfig(LoadOptions):
    """Serve a policy to robots over openpi's protocol; `openpi-client` and `foveate.client` speak it."""

    host: str = "127.0.0.1"
    """Address to listen on; anything but this machine's own needs --token_file or --allow_anonymous."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    replicas: int | None = None
    """Processes that serve, each with a policy of its own, over Ray Serve (extra `ray`); null: this process alone."""
    default_prompt: str | None = None
    """Instruction for observations that bring none."""
    token_file: str | None = None
    """File of tokens, one a line, that clients have to show (`Authorization: Api-Key ...` or `Bearer ...`)."""
    allow_anonymous: bool = False
    """Let other machines ask without a token."""
    max_batch: int = 8
    """Observations per inference at most."""
    max_wait_ms: float = 5.0
    """How long an observation waits for others to share its inference, at most; less where none come."""
    deadline_ms: float | None = None
    """An answer that would come later than this after its observation becomes an error; null: none is too late."""
    max_message_mb: float = 16.0
    """Size of a client's message at most; a larger one ends its connection."""
    fallback_kept: int | None = None
    """Where the pruner keeps so few patches or fewer, the query runs with all; null: what counts as a collapse of a
    pruner that chooses how many, never for one with a budget; 0: never."""
    drain_s: float = 10.0
    """Told to end, the server waits so long for running answers."""
    trace_out_dir: str | None = None
    """Run folder for the evidence of served inferences, as `eval sim` writes it."""
    trace_max_dumps: int = 1000
    """Inferences whose evidence is kept, at most."""
    allow_unchecked: bool = False
    """Run an engine that `foveate engine check` has not compared with eager on this machine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("port", self.port, 0, 65535)
        whole("max_batch", self.max_batch, 1, 1024)
        whole("trace_max_dumps", self.trace_max_dumps, 1, 10**9)
        number("max_wait_ms", self.max_wait_ms, 0)
        number("drain_s", self.drain_s, 0)
        if not number("max_message_mb", self.max_message_mb) > 0:
            raise FoveateError(f"max_message_mb: expected more than 0, got {self.max_message_mb:g}")
        if self.deadline_ms is not None and not number("deadline_ms", self.deadline_ms) > 0:
            raise FoveateError(f"deadline_ms: expected more than 0, got {self.deadline_ms:g}")
        if self.replicas is not None:
            whole("replicas", self.replicas, 1, 10_000)
        if self.fallback_kept is not None:
            whole("fallback_kept", self.fallback_kept, 0, 10**6)


def ready_line(what: str, host: str, port: int) -> str:
    """What is said when clients can connect."""
    where = f"[{host}]" if ":" in host else host
    return f"serving {what} on ws://{where}:{port} (also /healthz and /metrics); SIGTERM or Ctrl-C ends it"
