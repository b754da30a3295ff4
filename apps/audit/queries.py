"""Queries of the audit log, shaped so that those of one tenant walk an index."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection
from django.db.models import BigIntegerField, F, Max, Min, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce

from apps.audit.domain.chain import START, ChainPoint, ChainRow
from apps.audit.models import AuditEntry, AuditHead
from clasper.core.clock import from_row
from clasper.core.tenancy import OneTenant, TenantScope

VERIFY_CHUNK = 5_000
"""Rows in memory at once while a chain is verified."""


def audit_entries(
    *,
    tenants: TenantScope,
    event_type: str | None = None,
    trace_id: str | None = None,
    actor: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> QuerySet[Any]:
    """The scope's entries that match all given filters, both ends of the time range included; None filters nothing."""
    given = {
        "event_type": event_type,
        "trace_id": trace_id,
        "actor": actor,
        "timestamp__gte": start,
        "timestamp__lte": end,
    }
    return AuditEntry.objects.in_scope(tenants).filter(
        **{name: value for name, value in given.items() if value is not None}
    )


def by_tenant(entries: QuerySet[Any]) -> QuerySet[Any]:
    """Entries of all tenants, found in each tenant's part of the indexes, which all begin with the tenant."""
    return entries.filter(tenant_id__in=AuditHead.objects.values("tenant_id"))


def window_edge(*, before: int | None, size: int) -> int | None:
    """The id of the last of the `size` newest entries of all tenants before an id; None when no older one is left."""
    ids = AuditEntry.objects.order_by("-id").values_list("id", flat=True)
    edge = list((ids if before is None else ids.filter(id__lt=before))[size - 1 : size + 1])
    return edge[0] if len(edge) > 1 else None


def newest_first(entries: QuerySet[Any], *, by_seq: bool, few: bool) -> QuerySet[Any]:
    """Descending ids. Within a tenant seq and id rise together, and only seq is indexed for a tenant's whole log.

    `few` entries are sorted when found: offered an index in the right order, the planner would walk all of it.
    """
    if few:
        return entries.order_by((F("id") + 0).desc())
    return entries.order_by("-seq" if by_seq else "-id")


def older_than(entries: QuerySet[Any], entry_id: int, *, by_seq: bool) -> QuerySet[Any]:
    """The entries before the one with this id; `by_seq` as in `newest_first`."""
    older = entries.filter(id__lt=entry_id)
    if by_seq:
        seq = AuditEntry.objects.filter(id=entry_id).values_list("seq", flat=True).first()
        older = older.filter(seq__lt=seq) if seq is not None else older.none()
    return older


def audit_tenants() -> list[str]:
    """Every tenant that has entries or a chain head, sorted."""
    heads = AuditHead.objects.values_list("tenant_id", flat=True)
    logged = AuditEntry.objects.order_by().values_list("tenant_id", flat=True).distinct()
    return sorted({*heads, *logged})


def chain_end(tenant_id: str) -> tuple[ChainPoint, int]:
    """The tenant's chain head and the highest stored seq, read by one statement, so that they belong together."""
    head = AuditHead.objects.filter(tenant_id=OuterRef("tenant_id"))
    newest = AuditEntry.objects.filter(tenant_id=tenant_id).order_by("-seq")
    row = (
        newest.annotate(head_seq=Subquery(head.values("seq")), head_hash=Subquery(head.values("hash")))
        .values_list("seq", "head_seq", "head_hash")
        .first()
    )
    if row is None:
        lone = AuditHead.objects.filter(tenant_id=tenant_id).values_list("seq", "hash").first()
        return (ChainPoint(*lone) if lone else START), 0
    last_seq, head_seq, head_hash = row
    return (START if head_seq is None else ChainPoint(head_seq, head_hash)), last_seq


class ChainFigures(NamedTuple):
    """A chain's head, the last seq before some instant (0: none), and when its oldest entry was made."""

    seq: int
    counts: str
    seq_before: int
    oldest: datetime | None


def chain_figures(*, tenants: TenantScope, since: datetime) -> list[ChainFigures]:
    """The figures of every chain in the scope."""
    entries = AuditEntry.objects.filter(tenant_id=OuterRef("tenant_id"))
    before = entries.filter(timestamp__lt=since).order_by("-timestamp", "-id").values("seq")[:1]
    oldest = entries.order_by("timestamp", "id").values("timestamp")[:1]
    rows = (
        AuditHead.objects.in_scope(tenants)
        .annotate(before=Coalesce(Subquery(before), 0, output_field=BigIntegerField()), oldest=Subquery(oldest))
        .values_list("seq", "counts", "before", "oldest")
    )
    return [ChainFigures._make(row) for row in rows]


def chain_rows(tenant_id: str, *, up_to: int, after: int = 0) -> Iterator[ChainRow]:
    """The tenant's entries in ascending seq, a chunk at a time. Raises ValueError at a row that cannot be read."""
    size = VERIFY_CHUNK
    while True:
        try:
            rows = _raw_rows(tenant_id, after, up_to, size)
        except ValueError:
            if size == 1:
                raise
            size = 1  # SQLite stores any text in any column and fails for the whole chunk
            continue
        if not rows:
            return
        for seq, timestamp, *others in rows:
            yield ChainRow(seq, timestamp and from_row(timestamp), *others)
        after = rows[-1][0]


def _raw_rows(*params: Any) -> list[tuple[Any, ...]]:
    """Rows as the driver returns them: the ORM, with its time zones, takes longer than verifying."""
    timestamp = "timestamp AT TIME ZONE 'UTC'" if connection.vendor == "postgresql" else "timestamp"
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT seq, {timestamp}, event_type, tenant_id, trace_id, actor, details, prev_hash, hash FROM audit_log"
            " WHERE tenant_id = %s AND seq > %s AND seq <= %s ORDER BY seq LIMIT %s",
            params,
        )
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def chain_part(tenant_id: str, *, up_to: int, start: datetime | None, end: datetime | None) -> tuple[int, int] | None:
    """First and last seq of the unbroken part that contains every entry of the time range; None when it is empty.

    The clocks of processes differ, so an entry between two of the range need not lie in it.
    """
    if start is None and end is None:
        return 1, up_to
    inside = audit_entries(tenants=OneTenant(tenant_id), start=start, end=end).filter(seq__lte=up_to)
    found = inside.aggregate(first=Min("seq"), last=Max("seq"))
    return None if found["first"] is None else (found["first"], found["last"])


def chain_chunk(tenant_id: str, *, after: int, up_to: int, size: int) -> list[Any]:
    """The next entries of a chain, at most `size`, in ascending seq; they end before one that cannot be read."""
    rows = AuditEntry.objects.filter(tenant_id=tenant_id, seq__gt=after, seq__lte=up_to).order_by("seq")[:size]
    try:
        return list(rows)
    except ValueError:
        readable: list[Any] = []
        with suppress(ValueError):
            readable.extend(rows.iterator(chunk_size=1))
        return readable


def chain_point(tenant_id: str, seq: int) -> ChainPoint:
    """The point of a stored entry in its chain; START before the first; without a hash if the entry is missing."""
    if seq < 1:
        return START
    found = AuditEntry.objects.filter(tenant_id=tenant_id, seq=seq).values_list("hash", flat=True).first()
    return ChainPoint(seq, found or "")
