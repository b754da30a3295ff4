"""Lists, counts and verifies the audit log."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec

from apps.audit.domain.chain import EVENT_ALIASES, Anchors, ChainReport, check_end, verify
from apps.audit.domain.checkpoint import check_anchors
from apps.audit.models import AuditEntry
from apps.audit.queries import (
    audit_entries,
    audit_tenants,
    by_tenant,
    chain_end,
    chain_figures,
    chain_rows,
    newest_first,
    older_than,
    window_edge,
)
from clasper.core.schemas import Count, Instant, Resource, TraceId, about
from clasper.core.tenancy import AllTenants, TenantScope

COUNTED_UP_TO = 10_000
"""Larger totals are not counted exactly, so that no list costs a full count."""

EXAMINED = 10_000
"""The most entries of all tenants that a page looks at when too many match to be sorted."""


_decode_counts = msgspec.json.Decoder(dict[str, int]).decode


class AuditRecord(Resource, frozen=True, kw_only=True):
    """An entry of the audit log."""

    id: Count
    timestamp: Instant
    event_type: Annotated[str, about(example="tool.denied")]
    tenant_id: Annotated[str, about("Empty for the platform's own events.", example="acme")]
    trace_id: TraceId | None
    actor: Annotated[str, about("type:id", example="agent:jarvis")]
    details: Annotated[dict[str, Any], about(example={"tool": "delete_user"})]
    seq: Annotated[Count, about("The entry's place in its tenant's chain, from 1, without gaps.")]
    prev_hash: Annotated[str, about("The hash of the entry before; 64 zeros for the first.", example="f" * 64)]
    hash: Annotated[
        str, about("SHA-256 of the canonical JSON (RFC 8785) of all fields but id and hash.", example="e" * 64)
    ]


class AuditPage(Resource, frozen=True, kw_only=True):
    """A page of entries, newest first."""

    entries: tuple[AuditRecord, ...]
    total: Count
    limit: Count
    offset: Count
    next_cursor: Annotated[str | None, about(example=None)]
    total_is_exact: Annotated[bool, about(f"False when there are more than the {COUNTED_UP_TO} that are counted.")]


class AuditStats(Resource, frozen=True, kw_only=True):
    """The number of entries, by event and in the last 24 hours, and the time of the oldest."""

    total_entries: Count
    entries_by_type: Annotated[dict[str, int], about(example={"tool.denied": 12})]
    entries_last_24h: Count
    oldest_entry: Instant | None


def list_audit(
    *,
    tenants: TenantScope,
    event_type: str | None = None,
    trace_id: str | None = None,
    actor: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    limit: int = 100,
    offset: int = 0,
    before: int | None = None,
) -> AuditPage:
    """The scope's entries, newest first; both ends of the time range belong to it.

    Stable under appends when paged with `before`, which `read_cursor` reads from the previous page's cursor. If more
    entries of all tenants match than are counted, a page looks at no more than EXAMINED of them, so it may have fewer
    than `limit` entries and still a `next_cursor`.
    """
    event_type = EVENT_ALIASES.get(event_type, event_type) if event_type else None
    matching = audit_entries(
        tenants=tenants, event_type=event_type, trace_id=trace_id, actor=actor, start=start, end=end
    )
    across = isinstance(tenants, AllTenants) and any((event_type, trace_id, actor, start, end))
    counted = by_tenant(matching) if across else matching
    total = counted.order_by()[: COUNTED_UP_TO + 1].count()
    exact = total <= COUNTED_UP_TO
    edge = window_edge(before=before, size=EXAMINED) if across and not exact else None
    if across and exact:
        matching = by_tenant(matching)
    elif edge is not None:
        matching = matching.filter(id__gte=edge)
    by_seq = not isinstance(tenants, AllTenants) and event_type is None and actor is None
    page = matching if before is None else older_than(matching, before, by_seq=by_seq)
    page = newest_first(page, by_seq=by_seq, few=trace_id is not None or (across and exact))
    rows = list(page[offset : offset + limit + 1])
    last = rows[limit - 1].id if len(rows) > limit else edge
    return AuditPage(
        entries=tuple(_record(row) for row in rows[:limit]),
        total=min(total, COUNTED_UP_TO),
        total_is_exact=exact,
        limit=limit,
        offset=offset,
        next_cursor=_cursor(last) if last else None,
    )


def audit_after(*, tenant_id: str, seq: int, limit: int) -> list[AuditRecord]:
    """The tenant's entries that follow `seq`, oldest first and without gaps."""
    return [
        _record(row) for row in AuditEntry.objects.for_tenant(tenant_id).filter(seq__gt=seq).order_by("seq")[:limit]
    ]


def last_seq(*, tenant_id: str) -> int:
    """The seq of the tenant's newest entry, 0 without any."""
    return chain_end(tenant_id)[0].seq


def audit_stats(*, tenants: TenantScope, now: datetime) -> AuditStats:
    """The audit log's figures for the scope, from a few rows of each chain.

    The last 24 hours are what was appended after the newest entry that is older.
    """
    counts: Counter[str] = Counter()
    last_day = 0
    oldest: datetime | None = None
    for head in chain_figures(tenants=tenants, since=now - timedelta(hours=24)):
        counts.update(_decode_counts(head.counts))
        last_day += head.seq - head.seq_before
        oldest = min(filter(None, (oldest, head.oldest)), default=None)
    return AuditStats(
        total_entries=counts.total(),
        entries_by_type=dict(sorted(counts.items())),
        entries_last_24h=last_day,
        oldest_entry=oldest,
    )


def verify_chain(*, tenant_id: str, anchors: Anchors | None = None) -> ChainReport:
    """Verifies a tenant's whole chain up to its head, and against the anchors of checkpoints.

    Leaves entries appended during the verification for the next one.
    """
    head, last_stored_seq = chain_end(tenant_id)
    report = verify(chain_rows(tenant_id, up_to=head.seq), anchors=anchors)
    return check_anchors(check_end(report, head=head, last_stored_seq=last_stored_seq), anchors or {})


def verify_all(*, excluding: Collection[str] = ()) -> dict[str, ChainReport]:
    """Verifies the chain of every tenant not in `excluding`; tenants sorted, the platform's own chain under `""`."""
    return {tenant_id: verify_chain(tenant_id=tenant_id) for tenant_id in audit_tenants() if tenant_id not in excluding}


def _record(row: AuditEntry) -> AuditRecord:
    stored = {name: getattr(row, name) for name in AuditRecord.__struct_fields__}
    return AuditRecord(**stored | {"details": json.loads(row.details)})


_CURSOR = re.compile(rb"audit:([1-9][0-9]{0,17})")


def _cursor(entry_id: int) -> str:
    return base64.urlsafe_b64encode(b"audit:%d" % entry_id).decode().rstrip("=")


def read_cursor(text: str) -> int:
    """The entry before which a list continues. Raises ValueError when the cursor is not one of ours."""
    try:
        match = _CURSOR.fullmatch(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        match = None
    if match is None or _cursor(int(match[1])) != text:
        raise ValueError("Not a cursor of this list.")
    return int(match[1])
