"""The counters that monitoring reads, in Prometheus' terms.

No label names a tenant, a user, a model or a tool: every combination of labels is a series of its own, and their
number is unbounded. With several worker processes the values lie in files of PROMETHEUS_MULTIPROC_DIR, where every
update is written at once, and are summed when read.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TypeVar

from django.conf import settings
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

M = TypeVar("M", Counter, Histogram)

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
NANO = 1e-9

_registry = CollectorRegistry()
ProcessCollector(registry=_registry)

_RUNS = Counter("clasper_runs", "Runs that ended.", ["kind", "status", "provider"], registry=_registry)
_DURATION = Histogram(
    "clasper_run_duration_seconds",
    "From admission to settlement.",
    ["kind", "status"],
    buckets=SECONDS,
    registry=_registry,
)
_TOKENS = Counter("clasper_tokens", "Tokens that model calls used.", ["provider", "direction"], registry=_registry)
_COST = Counter("clasper_cost_usd", "What model calls cost.", ["provider"], registry=_registry)
_MODEL_CALLS = Counter("clasper_model_calls", "Attempts to call a model.", ["provider", "outcome"], registry=_registry)
_TOOL_CALLS = Counter("clasper_tool_calls", "Tools that models called.", ["status"], registry=_registry)


@cache
def _series(metric: M, *labels: str) -> M:
    """The series with these labels. Prometheus' own look-up takes five times as long, several times a run."""
    return metric.labels(*labels)


def count_run(kind: str, status: str, provider: str, duration_ms: int) -> None:
    """Counts a run that ended."""
    _series(_RUNS, kind, status, provider).inc()
    _series(_DURATION, kind, status).observe(duration_ms / 1000)


def count_model_call(provider: str, outcome: str, prompt_tokens: int, completion_tokens: int, cost: int) -> None:
    """Counts an attempt to call a model; `cost` in nano-USD."""
    _series(_MODEL_CALLS, provider, outcome).inc()
    _series(_TOKENS, provider, "input").inc(prompt_tokens)
    _series(_TOKENS, provider, "output").inc(completion_tokens)
    _series(_COST, provider).inc(cost * NANO)


def count_tool_call(status: str) -> None:
    """Counts a tool call by how it ended."""
    _series(_TOOL_CALLS, status).inc()


class _Read(Collector):
    """Returns metric families that have already been read."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> list[Metric]:
        return self._families


def exposition(gauges: Iterable[Metric]) -> bytes:
    """Returns everything that was counted, and the gauges, in Prometheus' text format."""
    if not settings.PROMETHEUS_MULTIPROC_DIR:
        counted = generate_latest(_registry)
    else:
        summed = CollectorRegistry()
        MultiProcessCollector(summed, path=settings.PROMETHEUS_MULTIPROC_DIR)  # type: ignore[no-untyped-call]
        ProcessCollector(registry=summed)
        counted = generate_latest(summed)
    read = CollectorRegistry()
    read.register(_Read(gauges))
    return counted + generate_latest(read)
