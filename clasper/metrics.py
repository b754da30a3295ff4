"""The counters that monitoring reads, in Prometheus' terms.

No label names a tenant, a user, a model or a tool: every combination of labels is a series of its own, and those have
no end. With several worker processes the values lie in files of PROMETHEUS_MULTIPROC_DIR and are summed when read.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from time import monotonic
from typing import NamedTuple

from django.conf import settings
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
NANO = 1e-9
KNOWN_SERIES = 4_096
MOST_WAITING = 1_000
"""Runs after which the series are written, asked for or not."""
WRITTEN_SECONDS = 1.0
"""How late a worker's counts are at most when another one is asked."""

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


class Call(NamedTuple):
    """An attempt to call a model; `cost` in nano-USD."""

    provider: str
    outcome: str
    prompt_tokens: int
    completion_tokens: int
    cost: int


class _CallSeries(NamedTuple):
    calls: Counter
    input: Counter
    output: Counter
    cost: Counter


class _Tally:
    """What was counted since the series were last written: adding up here costs a tenth of writing each time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Counter, float] = {}
        self._durations: list[tuple[Histogram, float]] = []
        self._due = 0.0

    def add(self, kind: str, status: str, provider: str, seconds: float, calls: list[Call], tools: list[str]) -> None:
        with self._lock:
            counts = self._counts
            runs, durations = _run_series(kind, status, provider)
            counts[runs] = counts.get(runs, 0) + 1
            self._durations.append((durations, seconds))
            for call in calls:
                series = _call_series(call.provider, call.outcome)
                counts[series.calls] = counts.get(series.calls, 0) + 1
                counts[series.input] = counts.get(series.input, 0) + call.prompt_tokens
                counts[series.output] = counts.get(series.output, 0) + call.completion_tokens
                counts[series.cost] = counts.get(series.cost, 0) + call.cost * NANO
            for each in tools:
                tool = _tool_series(each)
                counts[tool] = counts.get(tool, 0) + 1
            full = len(self._durations) >= MOST_WAITING
        if full:
            self.write()
        elif settings.PROMETHEUS_MULTIPROC_DIR:
            self._write_soon()

    def write(self) -> None:
        """Writes the series."""
        with self._lock:
            counts, self._counts = self._counts, {}
            durations, self._durations = self._durations, []
            for series, number in counts.items():
                series.inc(number)
            for histogram, seconds in durations:
                histogram.observe(seconds)

    def _write_soon(self) -> None:
        """Another worker may be the one that is asked, and it reads only what is written."""
        now = monotonic()
        if now >= self._due:
            self._due = now + WRITTEN_SECONDS
            asyncio.get_running_loop().call_later(WRITTEN_SECONDS, self.write)


_tally = _Tally()


def count_run(*, kind: str, status: str, provider: str, duration_ms: int, calls: list[Call], tools: list[str]) -> None:
    """Counts a run that ended, its attempts to call a model, and the tool calls by how each ended.

    Called on an event loop.
    """
    _tally.add(kind, status, provider, duration_ms / 1000, calls, tools)


def write() -> None:
    """Writes what was counted to where other workers read it; for a process that ends."""
    _tally.write()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """A value read when it is asked for: one number, or one for each value of the label."""

    name: str
    help: str
    values: Mapping[str, float]
    label: str = ""


class _Read(Collector):
    """Gives a family that was read already."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> list[Metric]:
        return [self._family]


def exposition(gauges: Iterable[Gauge]) -> bytes:
    """Everything that was counted, and the gauges, in Prometheus' text format."""
    _tally.write()
    if not settings.PROMETHEUS_MULTIPROC_DIR:
        counted = generate_latest(_registry)
    else:
        summed = CollectorRegistry()
        MultiProcessCollector(summed, path=settings.PROMETHEUS_MULTIPROC_DIR)  # type: ignore[no-untyped-call]
        ProcessCollector(registry=summed)
        counted = generate_latest(summed)
    read = CollectorRegistry()
    for each in gauges:
        shown = GaugeMetricFamily(each.name, each.help, labels=[each.label] if each.label else [])
        for value, number in each.values.items():
            shown.add_metric([value] if each.label else [], number)
        read.register(_Read(shown))
    return counted + generate_latest(read)


@lru_cache(maxsize=KNOWN_SERIES)
def _run_series(kind: str, status: str, provider: str) -> tuple[Counter, Histogram]:
    return _RUNS.labels(kind, status, provider), _DURATION.labels(kind, status)


@lru_cache(maxsize=KNOWN_SERIES)
def _call_series(provider: str, outcome: str) -> _CallSeries:
    return _CallSeries(
        _MODEL_CALLS.labels(provider, outcome),
        _TOKENS.labels(provider, "input"),
        _TOKENS.labels(provider, "output"),
        _COST.labels(provider),
    )


@lru_cache(maxsize=KNOWN_SERIES)
def _tool_series(status: str) -> Counter:
    return _TOOL_CALLS.labels(status)
