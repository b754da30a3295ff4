"""Reads runs: lists, and single traces."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, cast

import msgspec
from django.db.models import QuerySet
from msgspec import UNSET

from apps.audit.services.recording import record_audit
from apps.governance.domain.risk import Level
from apps.traces import queries
from apps.traces.domain.filters import Filters
from apps.traces.domain.record import TraceRisk
from apps.traces.domain.retention import StorageMode
from apps.traces.domain.views import (
    AnnotationView,
    StepView,
    TraceCost,
    TraceDetail,
    TracePage,
    TraceSummary,
    TraceUsage,
)
from apps.traces.models import Trace, TraceAnnotation, TracePayload, TraceStep
from apps.traces.queries import CursorKey
from apps.traces.services.searching import search
from clasper.core.clock import parse_iso
from clasper.core.db import atomic_batch
from clasper.core.errors import NotFound
from clasper.core.ids import is_uuid
from clasper.core.money import NanoUSD
from clasper.core.tenancy import TenantScope

_AS_STORED = (
    *("id", "tenant_id", "agent_id", "status", "started_at", "ended_at", "duration_ms", "cost", "workspace_id"),
    *("environment", "user_id", "kind", "provider", "model", "risk_score", "risk_level", "estimated"),
)


def list_traces(*, filters: Filters, limit: int, offset: int = 0, after: CursorKey | None = None) -> TracePage:
    """Runs that match, newest first; `after` is the key that `read_cursor` found in a cursor.

    A page may be shorter than `limit` although more runs follow, when too many would have to be looked at.
    """
    found = search(filters)
    total, exact = found.total()
    rows, following = found.page(after=after, limit=limit, offset=offset)
    return TracePage(
        traces=summaries(rows),
        total=total,
        total_is_exact=exact,
        next_cursor=_cursor(following) if following else None,
        limit=limit,
        text_searched=UNSET if found.searched is None else found.searched,
    )


def find_trace(*, tenants: TenantScope, trace_id: str) -> Trace:
    """The row of a run. Raises NotFound for an unknown id and for another tenant's run alike."""
    traces: QuerySet[Trace] = Trace.objects.in_scope(tenants)
    trace = traces.filter(id=trace_id.lower()).first() if is_uuid(trace_id) else None
    if trace is None:
        raise NotFound("No such trace.")
    return trace


def read_cursor(cursor: str) -> CursorKey:
    """The key after which a list continues. Raises ValueError when the cursor is not one of ours."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        instant, _, trace_id = text.partition("|")
        key = parse_iso(instant), trace_id.lower()
    except (binascii.Error, OverflowError, ValueError) as error:
        raise ValueError("Not a cursor of this list.") from error
    if not is_uuid(trace_id):
        raise ValueError("Not a cursor of this list.")
    return key


def read_trace(*, tenants: TenantScope, trace_id: str, actor: str, now: datetime) -> TraceDetail:
    """One run with its steps, for a caller; audited as `trace.read` if it contains texts.

    Raises NotFound for an unknown id and another tenant's run alike.
    """
    trace = get_trace(tenants=tenants, trace_id=trace_id)
    if has_texts(trace):
        record_read([trace], part="trace", actor=actor, now=now)
    return trace


def record_read(traces: Collection[TraceDetail], *, part: str, actor: str, now: datetime) -> None:
    """Audits that texts of runs were read; `part` says as what: the trace, its replay, or a diff of answers.

    The run is named only in the details: filtered by a run, the log then shows what the run did and what was done to
    it, not how often it was read.
    """
    with atomic_batch() as batch:
        for trace in traces:
            details = {"trace_id": trace.id, "part": part}
            record_audit(
                batch, tenant_id=trace.tenant_id, event_type="trace.read", actor=actor, now=now, details=details
            )


def has_texts(trace: TraceDetail) -> bool:
    """Whether any texts of the run are left."""
    said = (trace.input, trace.output, *(step.input for step in trace.steps), *(step.output for step in trace.steps))
    return bool(trace.error) or any(text is not None for text in said)


def get_trace(*, tenants: TenantScope, trace_id: str) -> TraceDetail:
    """One run with its steps. Raises NotFound for an unknown id and for another tenant's run alike."""
    trace = find_trace(tenants=tenants, trace_id=trace_id)
    payloads = queries.payloads_of([trace]).get(trace.id, {})
    return TraceDetail(
        **summary_fields(trace, queries.labels_of([trace]).get(trace.id, {})),
        snapshot_hash=trace.snapshot_hash,
        skill_versions=queries.skills_of(trace),
        task_id=trace.task_id or None,
        document_id=trace.document_id or None,
        message_id=trace.message_id or None,
        steps=tuple(step_view(step, payloads.get(step.seq)) for step in queries.steps_of([trace]).get(trace.id, ())),
        usage=TraceUsage(
            prompt_tokens=_prompt_tokens(trace),
            completion_tokens=trace.output_tokens,
            total_tokens=_prompt_tokens(trace) + trace.output_tokens,
            cached_tokens=trace.cached_tokens,
            cache_write_tokens=trace.cache_write_tokens,
            reasoning_tokens=trace.reasoning_tokens,
        ),
        priced=TraceCost(model=trace.model, total_cost=NanoUSD(trace.cost), price_version=trace.price_version),
        error=trace.error or None,
        risk=TraceRisk(
            score=trace.risk_score, level=cast(Level, trace.risk_level), factors=msgspec.json.decode(trace.risk_factors)
        ),
        redactions=trace.redactions,
        storage_mode=cast(StorageMode, trace.storage_mode),
        replay_of=trace.replay_of or None,
        annotations=tuple(annotation_view(note) for note in queries.annotations_of(trace)),
        input=value_of(payloads[0].input) if 0 in payloads else None,
        output=value_of(payloads[0].output) if 0 in payloads else None,
    )


def summaries(rows: Collection[Trace]) -> tuple[TraceSummary, ...]:
    """Rows of a list, with their labels."""
    labels = queries.labels_of(rows)
    return tuple(TraceSummary(**summary_fields(row, labels.get(row.id, {}))) for row in rows)


def summary_fields(trace: Trace, labels: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a TraceSummary."""
    return {
        **{name: getattr(trace, name) for name in _AS_STORED},
        "total_tokens": _prompt_tokens(trace) + trace.output_tokens,
        "error_code": trace.error_code or None,
        "labels": labels,
    }


def _prompt_tokens(trace: Trace) -> int:
    return trace.input_tokens + trace.cached_tokens + trace.cache_write_tokens


def step_view(step: TraceStep, payload: TracePayload | None) -> StepView:
    """A step as it is shown, without texts when there is no payload."""
    shown: dict[str, Any] = {
        "seq": step.seq,
        "type": step.type,
        "status": step.status,
        "code": step.code or None,
        "duration_ms": step.duration_ms,
        "started_at": step.started_at,
        "output": value_of(payload.output) if payload else None,
    }
    if step.type == "llm_call":
        names = ("provider", "attempt", "prompt_tokens", "completion_tokens", "cost")
        return StepView(**shown, model=step.name, **{name: getattr(step, name) for name in names})
    if step.type == "tool_call":
        permitted, success = step.status != "denied", step.status == "ok"
        arguments = value_of(payload.input) if payload else None
        return StepView(**shown, tool_name=step.name, arguments=arguments, permitted=permitted, success=success)
    return StepView(**shown, label=step.name)


def value_of(text: str | None) -> Any:
    """The JSON value of a stored text; None when retention stripped it."""
    return None if text is None else msgspec.json.decode(text)


def annotation_view(note: TraceAnnotation) -> AnnotationView:
    """A note as it is shown."""
    return msgspec.convert(note, AnnotationView, from_attributes=True)


def _cursor(key: CursorKey) -> str:
    started_at, trace_id = key
    return base64.urlsafe_b64encode(f"{started_at.isoformat()}|{trace_id}".encode()).decode().rstrip("=")
