"""What is shown of a run: the row of a list, the whole trace, the sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSummary:
    """One row of a list; never any text of the run."""

    id: str
    tenant_id: str
    workspace_id: str
    environment: str
    agent_id: str
    user_id: str
    kind: str
    status: str
    error_code: str
    started_at: datetime
    ended_at: datetime | None
    duration_ms: int | None
    provider: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    cost: int
    estimated: bool
    risk_score: int
    risk_level: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """One step with its redacted payload; `input` and `output` are None when stripped or absent."""

    seq: int
    type: str
    name: str
    provider: str
    status: str
    code: str
    started_at: datetime
    duration_ms: int
    attempt: int
    prompt_tokens: int
    completion_tokens: int
    cost: int
    input: Any
    output: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationView:
    """A note on a run."""

    id: int
    trace_id: str
    key: str
    value: str
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceDetail:
    """Everything kept of one run."""

    summary: TraceSummary
    error: str
    workspace_hash: str
    price_version: str
    risk_factors: Mapping[str, Any]
    redactions: int
    cached_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    task_id: str
    message_id: str
    document_id: str
    skill_versions: Mapping[str, str]
    steps: tuple[StepView, ...]
    annotations: tuple[AnnotationView, ...]
    replay_of: str
    storage_mode: str
    input: Any
    output: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TracePage:
    """A page of a list. `total` is exact up to the cap of counting; `next_cursor` is empty on the last page.

    `text_searched` is the number of runs whose texts were read, None when no text was asked for.
    """

    traces: tuple[TraceSummary, ...]
    total: int
    total_is_exact: bool
    next_cursor: str
    text_searched: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What ended runs took together. Durations in milliseconds, cost in nano-USD."""

    runs: int = 0
    duration_ms: int = 0
    tokens: int = 0
    cost: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            runs=self.runs + other.runs,
            duration_ms=self.duration_ms + other.duration_ms,
            tokens=self.tokens + other.tokens,
            cost=self.cost + other.cost,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStats:
    """The sums of all runs, and how many ended in which status."""

    whole: Totals
    by_status: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedStats:
    """Sums of groups of runs, each with what its runs have in common; `complete` when no group was left out."""

    groups: tuple[tuple[Mapping[str, str], Totals], ...]
    complete: bool
