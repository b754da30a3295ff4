"""Reading runs: lists, one trace, sums. Tenant first in every question."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from apps.traces import queries
from apps.traces.domain.views import StepView, TraceDetail, TracePage, TraceStats, TraceSummary
from apps.traces.models import Trace, TracePayload, TraceStep
from clasper.core.clock import iso, parse_iso
from clasper.core.errors import InvalidRequest, NotFound
from clasper.core.ids import is_uuid


def list_traces(*, tenant_id: str | None, limit: int, offset: int, cursor: str = "", **filters: Any) -> TracePage:
    """Runs newest first; `tenant_id` None lists every tenant's (the platform's own view).

    `filters` are those of `queries.filtered`. Raises InvalidRequest when the cursor is not one of ours.
    """
    found = queries.filtered(tenant_id=tenant_id, **filters)
    total, exact = queries.capped_count(found)
    if cursor:
        found = queries.before(found, *_read_cursor(cursor))
    rows = list(found[offset : offset + limit + 1])
    page, more = rows[:limit], len(rows) > limit
    labels = queries.labels_of(page)
    return TracePage(
        traces=tuple(_summary(row, labels.get(row.id, {})) for row in page),
        total=total,
        total_is_exact=exact,
        next_cursor=_cursor(page[-1]) if more else "",
    )


def get_trace(*, tenant_id: str | None, trace_id: str) -> TraceDetail:
    """One run with its steps. Raises NotFound for an unknown id and for another tenant's run alike."""
    traces = Trace.objects.all() if tenant_id is None else Trace.objects.for_tenant(tenant_id)
    trace = traces.filter(id=trace_id.lower()).first() if is_uuid(trace_id) else None
    if trace is None:
        raise NotFound("No such trace.")
    payloads = queries.payloads_of(trace)
    return TraceDetail(
        summary=_summary(trace, queries.labels_of([trace]).get(trace.id, {})),
        error=trace.error,
        workspace_hash=trace.workspace_hash,
        price_version=trace.price_version,
        risk_factors=msgspec.json.decode(trace.risk_factors),
        redactions=trace.redactions,
        cached_tokens=trace.cached_tokens,
        cache_write_tokens=trace.cache_write_tokens,
        reasoning_tokens=trace.reasoning_tokens,
        task_id=trace.task_id,
        message_id=trace.message_id,
        document_id=trace.document_id,
        skill_versions=queries.skills_of(trace),
        steps=tuple(_step(step, payloads.get(step.seq)) for step in queries.steps_of(trace)),
        input=_value(payloads[0].input) if 0 in payloads else None,
        output=_value(payloads[0].output) if 0 in payloads else None,
    )


def trace_stats(*, tenant_id: str | None, start: datetime | None = None, end: datetime | None = None) -> TraceStats:
    """Sums over the runs that ended on the days from `start` to `end`, both whole UTC days, from the rollups."""
    sums = queries.sums_by_status(tenant_id=tenant_id, start=start, end=end)
    return TraceStats(
        total=sum(row["runs_sum"] for row in sums),
        by_status={row["value"]: row["runs_sum"] for row in sums},
        duration_ms=sum(row["duration_sum"] for row in sums),
        tokens=sum(row["input_sum"] + row["output_sum"] for row in sums),
        cost=sum(row["cost_sum"] for row in sums),
    )


def _summary(trace: Trace, labels: Mapping[str, str]) -> TraceSummary:
    return TraceSummary(
        id=trace.id,
        tenant_id=trace.tenant_id,
        workspace_id=trace.workspace_id,
        environment=trace.environment,
        agent_id=trace.agent_id,
        user_id=trace.user_id,
        kind=trace.kind,
        status=trace.status,
        error_code=trace.error_code,
        started_at=trace.started_at,
        ended_at=trace.ended_at,
        duration_ms=trace.duration_ms,
        provider=trace.provider,
        model=trace.model,
        prompt_tokens=trace.input_tokens + trace.cached_tokens + trace.cache_write_tokens,
        completion_tokens=trace.output_tokens,
        cost=trace.cost,
        estimated=trace.estimated,
        risk_score=trace.risk_score,
        risk_level=trace.risk_level,
        labels=labels,
    )


def _step(step: TraceStep, payload: TracePayload | None) -> StepView:
    return StepView(
        seq=step.seq,
        type=step.type,
        name=step.name,
        provider=step.provider,
        status=step.status,
        code=step.code,
        started_at=step.started_at,
        duration_ms=step.duration_ms,
        attempt=step.attempt,
        prompt_tokens=step.prompt_tokens,
        completion_tokens=step.completion_tokens,
        cost=step.cost,
        input=_value(payload.input) if payload else None,
        output=_value(payload.output) if payload else None,
    )


def _value(text: str | None) -> Any:
    return None if text is None else msgspec.json.decode(text)


def _cursor(trace: Trace) -> str:
    return base64.urlsafe_b64encode(f"{iso(trace.started_at)}|{trace.id}".encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[datetime, str]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        instant, _, trace_id = text.partition("|")
        if not is_uuid(trace_id):
            raise ValueError("not an id")
        return parse_iso(instant), trace_id
    except (ValueError, binascii.Error) as error:
        raise InvalidRequest(field_errors={"cursor": ["Not a cursor of this list."]}) from error
