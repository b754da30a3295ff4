"""Every question asked of the trace tables, by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from django.db import connection
from django.db.models import F, Model, OuterRef, Q, QuerySet, Subquery, Sum, Value
from django.db.models.functions import Coalesce

from apps.traces.domain.filters import Filters
from apps.traces.models import Rollup, Trace, TraceAnnotation, TraceLabel, TracePayload, TraceSkill, TraceStep
from clasper.core.db import placeholders
from clasper.core.tenancy import AllTenants, OneTenant, TenantScope

COUNT_CAP = 10_000
"""Counting stops here: an exact total of a million rows costs more than the page that shows it."""

CursorKey = tuple[datetime, str]
"""What the newest-first order sorts a run by: its start and its id."""

M = TypeVar("M", bound=Model)
R = TypeVar("R")

LINKS = ("task_id", "document_id", "message_id")
_COLUMNS = {"model_name": "model"}

EQUALITIES = (
    *("status", "agent_id", "model_name", "provider", "workspace_id", "environment", "user_id", "kind", "risk_level"),
    *("replay_of", *LINKS),
)
"""Filters that ask for exactly one value of a column."""

COMMON_KINDS = ("send", "stream")
"""Kinds of which there are too many for an index of their own."""


def matching(filters: Filters, *, driver: str = "") -> QuerySet[Trace]:
    """The traces that match every filter but `text`, newest first.

    Only the index of the filter `driver` (or that of the times) is used: for several filters, nobody can say in advance
    which index a database would choose and how many rows it would then read.
    """
    newest_first: QuerySet[Trace] = Trace.objects.in_scope(filters.tenants).order_by("-started_at", "-id")
    traces = within(newest_first, filters.start, filters.end)
    if driver:
        traces = _with_partial_index(traces.filter(**{_COLUMNS.get(driver, driver): getattr(filters, driver)}), driver)
    return _also_matching(traces, filters, [name for name in EQUALITIES if name != driver])


def among(filters: Filters, ids: Collection[str]) -> QuerySet[Trace]:
    """Those of the traces that match every filter but `text`, looked up by their ids."""
    traces = within(Trace.objects.filter(id__in=ids), filters.start, filters.end)
    if not isinstance(filters.tenants, AllTenants):
        traces = _unindexed(traces, {"tenant_id": filters.tenants.tenant_id})
    return _also_matching(traces, filters, EQUALITIES)


def _also_matching(traces: QuerySet[Trace], filters: Filters, names: Collection[str]) -> QuerySet[Trace]:
    """The filters as conditions on rows that are read in any case."""
    given = {_COLUMNS.get(name, name): value for name in names if (value := getattr(filters, name))}
    traces = _unindexed(traces, given)
    if filters.model:
        provider, _, name = filters.model.partition("/")  # both there: else the filter is a name
        traces = traces.alias(**{f"{column}_read": _read(column) for column in ("model", "provider")})
        traces = traces.filter(Q(model_read=filters.model) | Q(provider_read=provider, model_read=name))
    if filters.label:
        # At most one row, looked up for each trace: a join would let PostgreSQL read every label of this key.
        found = TraceLabel.objects.filter(tenant_id=OuterRef("tenant_id"), trace_id=OuterRef("id"), key=filters.label)
        traces = traces.alias(label_read=Subquery(found.values("value")[:1]))
        wanted = {"label_read__isnull": False} if filters.label_value is None else {"label_read": filters.label_value}
        traces = traces.filter(**wanted)
    bounds = {"cost__gte": filters.min_cost, "cost__lte": filters.max_cost}
    return traces.filter(**{name: value for name, value in bounds.items() if value is not None})


def has_model(tenants: TenantScope, name: str) -> bool:
    """Whether any run was answered by a model of exactly this name."""
    return Trace.objects.filter(tenant_id__in=_tenants(tenants), model=name).exists()


def within(rows: QuerySet[M, R], start: datetime | None, end: datetime | None) -> QuerySet[M, R]:
    """Traces, or their labels, that began in a time range; both ends belong to it."""
    if start is not None:
        rows = rows.filter(started_at__gte=start)
    if end is not None:
        rows = rows.filter(started_at__lte=end)
    return rows


def after(rows: QuerySet[M, R], key: CursorKey | None, *, name: str = "id") -> QuerySet[M, R]:
    """What follows a key in newest-first order, everything for None; `name` is the column of the trace's id."""
    if key is None:
        return rows
    started_at, trace_id = key
    # The first condition alone can be looked up in an index; the second only decides between equal starts.
    return rows.filter(started_at__lte=started_at).exclude(started_at=started_at, **{f"{name}__gte": trace_id})


def up_to(traces: QuerySet[Trace], key: CursorKey) -> QuerySet[Trace]:
    """The traces from the newest down to the one with this key."""
    started_at, trace_id = key
    return traces.filter(started_at__gte=started_at).exclude(started_at=started_at, id__lt=trace_id)


def keys(traces: QuerySet[Trace]) -> QuerySet[Trace, CursorKey]:
    return traces.values_list("started_at", "id")


def capped_count(rows: QuerySet[Any]) -> tuple[int, bool]:
    """How many there are, and whether that is exact."""
    count = rows.order_by()[: COUNT_CAP + 1].count()
    return min(count, COUNT_CAP), count <= COUNT_CAP


def labelled(filters: Filters) -> QuerySet[TraceLabel, str]:
    """Ids of the traces with the label of the filters."""
    return _labels(_tenants(filters.tenants, "trace_labels"), filters).values_list("trace_id", flat=True)


def label_keys(tenant_id: str, filters: Filters) -> QuerySet[TraceLabel, CursorKey]:
    """Keys of a tenant's traces with the label of the filters, in their time range, newest first; walks one index."""
    labels = within(_labels([tenant_id], filters), filters.start, filters.end)
    return labels.order_by("-started_at", "-trace_id").values_list("started_at", "trace_id")


def _labels(tenant_ids: list[str], filters: Filters) -> QuerySet[TraceLabel]:
    valued = {} if filters.label_value is None else {"value": filters.label_value}
    return TraceLabel.objects.filter(tenant_id__in=tenant_ids, key=filters.label, **valued)


def linked(tenants: TenantScope, column: str, value: str) -> QuerySet[Trace, str]:
    """Ids of the traces that belong to a task, a document or a message."""
    traces = Trace.objects.filter(tenant_id__in=_tenants(tenants), **{column: value})
    return _with_partial_index(traces, column).values_list("id", flat=True)


def narrowed(tenants: TenantScope) -> TenantScope:
    """The same scope, or its only tenant when all traces belong to one."""
    found = _first_tenants("traces", "LIMIT 2") if isinstance(tenants, AllTenants) else []
    return OneTenant(found[0]) if len(found) == 1 else tenants


def mentioning(ids: Collection[str], text: str) -> set[str]:
    """Those of the traces whose user or link is `text`, or whose stored texts contain it, ignoring case."""
    facts = Trace.objects.filter(id__in=ids).values_list("id", "tenant_id", "user_id", *LINKS)
    named, tenant_ids = set(), set()
    for trace_id, tenant_id, *names in facts:
        tenant_ids.add(tenant_id)
        if text in names:
            named.add(trace_id)
    # Texts are stored as JSON, in which quotes and line breaks are escaped.
    written = msgspec.json.encode(text).decode()[1:-1]
    payloads = TracePayload.objects.filter(tenant_id__in=tenant_ids, trace_id__in=ids)
    found = payloads.filter(Q(input__icontains=written) | Q(output__icontains=written))
    return named.union(found.values_list("trace_id", flat=True))


def labels_of(traces: Collection[Trace]) -> dict[str, dict[str, str]]:
    """Labels by trace id, sorted by their keys."""
    labels: dict[str, dict[str, str]] = {}
    if not traces:
        return labels
    with connection.cursor() as cursor:
        sql = _LABELS.format(_LABELS_INDEX.get(connection.vendor, ""), placeholders(traces))
        cursor.execute(sql, [trace.id for trace in traces])
        for trace_id, key, value in sorted(cursor.fetchall()):
            labels.setdefault(trace_id, {})[key] = value
    return labels


def steps_of(traces: Collection[Trace]) -> dict[str, list[TraceStep]]:
    """Steps by trace id, in their order."""
    steps: dict[str, list[TraceStep]] = {}
    tenants, ids = {trace.tenant_id for trace in traces}, [trace.id for trace in traces]
    for row in TraceStep.objects.filter(tenant_id__in=tenants, trace_id__in=ids).order_by("trace_id", "seq"):
        steps.setdefault(row.trace_id, []).append(row)
    return steps


def payloads_of(traces: Collection[Trace]) -> dict[str, dict[int, TracePayload]]:
    """Payloads by trace id and seq."""
    payloads: dict[str, dict[int, TracePayload]] = {}
    tenants, ids = {trace.tenant_id for trace in traces}, [trace.id for trace in traces]
    for row in TracePayload.objects.filter(tenant_id__in=tenants, trace_id__in=ids):
        payloads.setdefault(row.trace_id, {})[row.seq] = row
    return payloads


def skills_of(trace: Trace) -> dict[str, str]:
    rows = TraceSkill.objects.filter(tenant_id=trace.tenant_id, trace_id=trace.id).order_by("name")
    return dict(rows.values_list("name", "version"))


def annotations_of(trace: Trace) -> QuerySet[TraceAnnotation]:
    """The notes on a trace, oldest first."""
    return TraceAnnotation.objects.filter(tenant_id=trace.tenant_id, trace_id=trace.id).order_by("id")


def day_sums(
    *,
    tenants: TenantScope,
    dimension: str,
    by: Sequence[str],
    start: datetime | None,
    end: datetime | None,
    most: int | None = None,
) -> list[dict[str, Any]]:
    """Day sums of one dimension, added up for each combination of `by`: day, value, or both.

    The newest days first, then the most expensive sums; at most `most` of them.
    """
    rollups = Rollup.objects.in_scope(tenants).filter(dimension=dimension)
    if start is not None:
        rollups = rollups.filter(day__gte=start.date())
    if end is not None:
        rollups = rollups.filter(day__lte=end.date())
    sums = rollups.values(*by).annotate(
        runs_sum=Sum("runs"),
        duration_sum=Sum("duration_ms"),
        input_sum=Sum("input_tokens"),
        output_sum=Sum("output_tokens"),
        cost_sum=Sum("cost"),
    )
    newest = ("-day",) if "day" in by else ()
    return [dict(row) for row in sums.order_by(*newest, "-cost_sum", "-runs_sum", *by)[:most]]


# --- Hints for planners -----------------------------------------------------------------------------------------------

# Partial indexes are used only where a query repeats their condition literally.
_PARTIAL = {name: f"NOT (traces.{name} = '')" for name in LINKS}
_PARTIAL["kind"] = "NOT (traces.kind IN ('send', 'stream'))"


def _with_partial_index(traces: QuerySet[Trace], name: str) -> QuerySet[Trace]:
    """The same traces, found in the partial index of the filter if it has one."""
    return traces.extra(where=[_PARTIAL[name]]) if name in _PARTIAL else traces  # noqa: S610  a constant


def _unindexed(traces: QuerySet[Trace], given: Mapping[str, str]) -> QuerySet[Trace]:
    """Those with these values in their columns, compared so that no index can be used."""
    traces = traces.alias(**{f"{column}_read": _read(column) for column in given})
    return traces.filter(**{f"{column}_read": value for column, value in given.items()})


def _read(column: str) -> Coalesce:
    return Coalesce(F(column), Value(""))


def _tenants(tenants: TenantScope, table: str = "traces") -> list[str]:
    """The scope's tenant, or all in the table: one step through its index for each tenant, never a scan of its rows."""
    return _first_tenants(table) if isinstance(tenants, AllTenants) else [tenants.tenant_id]


def _first_tenants(table: str, limit: str = "") -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            f"WITH RECURSIVE known (id) AS (SELECT MIN(tenant_id) FROM {table} UNION ALL"
            f" SELECT (SELECT MIN(tenant_id) FROM {table} WHERE tenant_id > known.id) FROM known"
            f" WHERE known.id IS NOT NULL) SELECT id FROM known WHERE id IS NOT NULL {limit}"
        )
        return [row[0] for row in cursor.fetchall()]


_LABELS = """SELECT l.trace_id, l.key, l.value FROM traces t CROSS JOIN trace_labels l {}
 WHERE t.id IN ({}) AND l.tenant_id = t.tenant_id AND l.trace_id = t.id"""

# Without statistics SQLite would rather read all labels of the tenant in the index that holds every column.
_LABELS_INDEX = {"sqlite": "INDEXED BY sqlite_autoindex_trace_labels_1"}
