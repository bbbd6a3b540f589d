"""What a server tells of itself at `/metrics`, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from foveate.errors import FoveateError

try:
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
    from prometheus_client.metrics_core import Metric
    from prometheus_client.parser import text_string_to_metric_families
    from prometheus_client.registry import Collector
except ImportError as error:
    raise FoveateError(f'{error.name} is missing; run: pip install "foveate[serve]"') from error

OUTCOMES = ("ok", "invalid", "late", "failed", "not_finite", "ending")
"""Of a query: answered; malformed or for another robot; past its deadline; the policy raised; actions with NaN; the
server was told to end."""
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5)


class Metrics:
    """Counters of one server; safe from any thread."""

    def __init__(self, policy: str = "policy") -> None:
        self.registry = CollectorRegistry()
        of: dict[str, Any] = {"registry": self.registry, "namespace": "foveate"}
        self._queries = Counter("queries", "Observations by what became of them.", ("outcome",), **of)
        for outcome in OUTCOMES:
            self._queries.labels(outcome)
        self.connections = Gauge("connections", "Clients that are connected.", **of)
        self._refused = Counter("refused_connections", "Connections that were not let in.", ("reason",), **of)
        self._inference = Histogram("inference_seconds", "One inference of a batch.", buckets=SECONDS, **of)
        self._stage = Histogram(
            "stage_seconds", "A stage of one inference of a batch.", ("stage",), buckets=SECONDS, **of
        )
        self._queue = Histogram(
            "queue_seconds", "From an observation's arrival to its inference.", buckets=SECONDS, **of
        )
        self._batch = Histogram(
            "batch_size", "Observations that shared an inference.", buckets=(1, 2, 4, 8, 16, 32, 64), **of
        )
        self._kept = Histogram(
            "kept_tokens", "Visual tokens kept of one observation.", buckets=(8, 16, 32, 64, 128, 256, 512, 768), **of
        )
        self._fallbacks = Counter("fallbacks", "Queries that ran with all tokens, the pruner having collapsed.", **of)
        Gauge("info", "The policy that is served.", ("policy",), **of).labels(policy).set(1)

    def answered(self, outcome: str, count: int = 1) -> None:
        """Count queries by one of `OUTCOMES`."""
        self._queries.labels(outcome).inc(count)

    def refused(self, reason: str) -> None:
        """Count a connection that was not let in: `token`, `full` or `ending`."""
        self._refused.labels(reason).inc()

    def inferred(self, queue_ms: list[float], infer_ms: float, stages_ms: Mapping[str, float]) -> None:
        """Take in one inference of a batch.

        Args:
            queue_ms: of each of its queries.
        """
        self._inference.observe(infer_ms / 1e3)
        self._batch.observe(len(queue_ms))
        for ms in queue_ms:
            self._queue.observe(ms / 1e3)
        for stage, ms in stages_ms.items():
            self._stage.labels(stage).observe(ms / 1e3)

    def kept(self, tokens: int, fell_back: bool) -> None:
        """Count what the pruner kept of one observation, and whether that was too little to go by."""
        self._kept.observe(tokens)
        if fell_back:
            self._fallbacks.inc()

    def page(self) -> tuple[str, bytes]:
        """Content type and text of `/metrics`."""
        return CONTENT_TYPE_LATEST, generate_latest(self.registry)


class _Merged(Collector):
    def __init__(self, pages: Mapping[str, bytes]) -> None:
        self._pages = pages

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for replica, page in self._pages.items():
            for found in text_string_to_metric_families(page.decode()):
                family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
                for sample in found.samples:
                    family.add_sample(sample.name, {**sample.labels, "replica": replica}, sample.value)
        return families.values()


def merged(pages: Mapping[str, bytes]) -> tuple[str, bytes]:
    """Content type and text of the pages of several replicas: each number with its replica's name as a label."""
    registry = CollectorRegistry()
    registry.register(_Merged(pages))
    return CONTENT_TYPE_LATEST, generate_latest(registry)
