"""A policy, loaded, warmed up and served until the process is told to end.

serve_policy(ServeConfig(policy="metaworld_tiny", port=8000), report)
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from functools import partial

from foveate.evaluation.fidelity import require_check
from foveate.policy import Policy
from foveate.serving.access import open_access
from foveate.serving.config import ServeConfig
from foveate.serving.evidence import ServedTrace
from foveate.serving.inference import InferenceWorker
from foveate.serving.server import PolicyServer
from foveate.util.progress import SILENT, Reporter


def serve_policy(config: ServeConfig, report: Reporter = SILENT, policy: Policy | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        policy: loaded as `config` says; None: it is loaded.
    Raises:
        FoveateError: the policy, its engine, the tokens or the port cannot be had; nothing is served then.
    """
    access = open_access(config.host, config.token_file, config.allow_anonymous)
    require_check(config, config.allow_unchecked)
    if policy is None:
        with report.status("loading the policy"):
            policy = config.load(report)
    with ExitStack() as stack:
        trace = None
        if config.trace_out_dir is not None:
            trace = ServedTrace(config.trace_out_dir, config.trace_max_dumps, policy)
            stack.callback(_close, trace, report)
        worker = InferenceWorker(
            policy,
            max_batch=config.max_batch,
            max_wait_s=config.max_wait_ms / 1e3,
            fallback_kept=config.fallback_kept,
            witness=trace,
        )
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
        asyncio.run(server.run(partial(_tell, report, server, policy.spec.name)))


def _close(trace: ServedTrace, report: Reporter) -> None:
    for warning in trace.close():
        report.warn(warning)


def _tell(report: Reporter, server: PolicyServer, policy: str) -> None:
    where = f"[{server.host}]" if ":" in server.host else server.host
    report.line(
        f"serving {policy} on ws://{where}:{server.port} (also /healthz and /metrics); SIGTERM or Ctrl-C ends it"
    )
