"""A policy, loaded and put behind its worker as a configuration says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from foveate.evaluation.fidelity import require_check
from foveate.policy import Policy
from foveate.serving.config import ServeConfig
from foveate.serving.evidence import ServedTrace
from foveate.serving.inference import InferenceWorker
from foveate.util.progress import SILENT, Reporter


@contextmanager
def loaded_worker(
    config: ServeConfig, report: Reporter = SILENT, policy: Policy | None = None
) -> Iterator[InferenceWorker]:
    """A worker that has not begun; the evidence of what it infers is on disk when the block ends.

    Args:
        policy: loaded as `config` says; None: it is loaded.
    Raises:
        FoveateError: the policy or its engine cannot be had, or the trace's folder cannot be written.
    """
    require_check(config, config.allow_unchecked)
    if policy is None:
        with report.status("loading the policy"):
            policy = config.load(report)
    trace = None
    if config.trace_out_dir is not None:
        trace = ServedTrace(config.trace_out_dir, config.trace_max_dumps, policy)
    try:
        yield InferenceWorker(
            policy,
            max_batch=config.max_batch,
            max_wait_s=config.max_wait_ms / 1e3,
            fallback_kept=config.fallback_kept,
            witness=trace,
        )
    finally:
        for warning in trace.close() if trace is not None else ():
            report.warn(warning)
