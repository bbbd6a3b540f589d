"""A policy served until the process is told to end: by this process, or by replicas.

serve_policy(ServeConfig(policy="metaworld_tiny", port=8000), report)
"""

from __future__ import annotations

import asyncio
from functools import partial

from foveate.policy import Policy
from foveate.serving.access import open_access
from foveate.serving.config import ServeConfig, ready_line
from foveate.serving.load import loaded_worker
from foveate.serving.server import PolicyServer
from foveate.util.ports import check_port
from foveate.util.progress import SILENT, Reporter


def serve_policy(config: ServeConfig, report: Reporter = SILENT, policy: Policy | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        policy: loaded as `config` says; None: it is loaded. Replicas load their own.
    Raises:
        FoveateError: the policy, its engine, the tokens or the port cannot be had; nothing is served then.
    """
    access = open_access(config.host, config.token_file, config.allow_anonymous)
    if config.replicas is not None:
        from foveate.serving.replicas import serve_replicas

        return serve_replicas(config, access, report)
    check_port(config.host, config.port)  # loading may take minutes; the port opens after it
    with loaded_worker(config, report, policy) as worker:
        server = PolicyServer(
            worker,
            host=config.host,
            port=config.port,
            access=access,
            default_prompt=config.default_prompt,
            deadline_ms=config.deadline_ms,
            max_message_bytes=int(config.max_message_mb * 2**20),
            drain_s=config.drain_s,
        )
        asyncio.run(server.run(partial(_tell, report, server)))


def _tell(report: Reporter, server: PolicyServer) -> None:
    report.line(ready_line(server.worker.policy.spec.name, server.host, server.port))
