"""Every question asked of the trace tables, by name."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from django.db.models import Q, QuerySet, Sum

from apps.traces.models import Rollup, Trace, TraceLabel, TracePayload, TraceSkill, TraceStep

COUNT_CAP = 10_000
"""Counting stops here: an exact total of a million rows costs more than the page it stands on."""


def filtered(
    *,
    tenant_id: str | None,
    status: str = "",
    agent_id: str = "",
    model: str = "",
    workspace_id: str = "",
    environment: str = "",
    label: str = "",
    label_value: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> QuerySet[Trace]:
    """Traces of a tenant (None: of every tenant), newest first."""
    traces: QuerySet[Trace] = Trace.objects.all() if tenant_id is None else Trace.objects.for_tenant(tenant_id)
    exact = {"status": status, "agent_id": agent_id, "workspace_id": workspace_id, "environment": environment}
    traces = traces.filter(**{name: value for name, value in exact.items() if value})
    if model:
        provider, slash, name = model.partition("/")
        named = Q(model=model)
        traces = traces.filter(named | Q(provider=provider, model=name) if slash else named)
    if label:
        labels = TraceLabel.objects.filter(key=label)
        if tenant_id is not None:
            labels = labels.filter(tenant_id=tenant_id)
        if label_value is not None:
            labels = labels.filter(value=label_value)
        traces = traces.filter(id__in=labels.values("trace_id"))
    if start is not None:
        traces = traces.filter(started_at__gte=start)
    if end is not None:
        traces = traces.filter(started_at__lte=end)
    return traces.order_by("-started_at", "-id")


def before(traces: QuerySet[Trace], started_at: datetime, trace_id: str) -> QuerySet[Trace]:
    """The traces after a cursor's place in newest-first order."""
    return traces.filter(Q(started_at__lt=started_at) | Q(started_at=started_at, id__lt=trace_id))


def capped_count(traces: QuerySet[Trace]) -> tuple[int, bool]:
    """How many there are, and whether that is exact."""
    count = traces.order_by()[: COUNT_CAP + 1].count()
    return min(count, COUNT_CAP), count <= COUNT_CAP


def labels_of(traces: Collection[Trace]) -> dict[str, dict[str, str]]:
    """Labels by trace id."""
    labels: dict[str, dict[str, str]] = {}
    tenants, ids = {trace.tenant_id for trace in traces}, [trace.id for trace in traces]
    rows = TraceLabel.objects.filter(tenant_id__in=tenants, trace_id__in=ids).order_by("key")
    for trace_id, key, value in rows.values_list("trace_id", "key", "value"):
        labels.setdefault(trace_id, {})[key] = value
    return labels


def steps_of(trace: Trace) -> QuerySet[TraceStep]:
    return TraceStep.objects.filter(tenant_id=trace.tenant_id, trace_id=trace.id).order_by("seq")


def payloads_of(trace: Trace) -> dict[int, TracePayload]:
    rows = TracePayload.objects.filter(tenant_id=trace.tenant_id, trace_id=trace.id)
    return {row.seq: row for row in rows}


def skills_of(trace: Trace) -> dict[str, str]:
    rows = TraceSkill.objects.filter(tenant_id=trace.tenant_id, trace_id=trace.id).order_by("name")
    return dict(rows.values_list("name", "version"))


def sums_by_status(*, tenant_id: str | None, start: datetime | None, end: datetime | None) -> list[dict[str, Any]]:
    """Day sums of the status dimension: every run that ended is counted in it exactly once."""
    rollups = Rollup.objects.filter(dimension="status")
    if tenant_id is not None:
        rollups = rollups.filter(tenant_id=tenant_id)
    if start is not None:
        rollups = rollups.filter(day__gte=start.date())
    if end is not None:
        rollups = rollups.filter(day__lte=end.date())
    sums = rollups.values("value").annotate(
        runs_sum=Sum("runs"),
        duration_sum=Sum("duration_ms"),
        input_sum=Sum("input_tokens"),
        output_sum=Sum("output_tokens"),
        cost_sum=Sum("cost"),
    )
    return [dict(row) for row in sums]
