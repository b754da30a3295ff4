"""Appends to the audit log, in the transaction of what is audited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, NamedTuple

import msgspec

from apps.audit.domain.chain import (
    EVENT_TYPES,
    GENESIS,
    START,
    ChainPoint,
    EntryTemplate,
    appended_hash,
    entry_template,
)
from apps.audit.services import signal
from clasper.core.canonical import canonical_json
from clasper.core.clock import iso
from clasper.core.db import Batch, placeholders
from clasper.core.redaction import redact

_ADD_HEAD = (
    "INSERT INTO audit_heads (tenant_id, seq, hash, counts) VALUES (%s, 0, %s, '{}') ON CONFLICT (tenant_id) DO NOTHING"
)
_READ_HEADS = "SELECT tenant_id, seq, hash, counts FROM audit_heads WHERE tenant_id IN ({}) ORDER BY tenant_id"
_MOVE_HEAD = "UPDATE audit_heads SET seq = %s, hash = %s, counts = %s WHERE tenant_id = %s"
_ADD_ENTRY = (
    "INSERT INTO audit_log (tenant_id, seq, timestamp, event_type, trace_id, actor, details, prev_hash, hash)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
)

_encode = msgspec.json.Encoder().encode
_decode_counts = msgspec.json.Decoder(dict[str, int]).decode


class _Pending(NamedTuple):
    template: EntryTemplate
    event_type: str
    columns: tuple[datetime, str, str | None, str, str]
    """Those of an entry that are known before it is appended, from `timestamp` to `details`."""


class AuditTail:
    """The entries of one batch, appended to their tenants' chains just before the commit.

    The heads are locked that late, by one statement and in sorted order, so that locks are brief and no two
    transactions wait for each other in a circle.
    """

    lock_order: ClassVar[int] = 20

    def __init__(self) -> None:
        self._pending: dict[str, list[_Pending]] = {}

    def add(self, tenant_id: str, entry: _Pending) -> None:
        self._pending.setdefault(tenant_id, []).append(entry)

    def flush(self, batch: Batch) -> None:
        tenants = sorted(self._pending)
        heads = _lock_heads(batch, tenants)
        for tenant_id in tenants:
            last, counts = heads.get(tenant_id) or _add_head(batch, tenant_id)
            for entry in self._pending[tenant_id]:
                end = ChainPoint(last.seq + 1, appended_hash(entry.template, last))
                batch.queue(_ADD_ENTRY, (tenant_id, end.seq, *entry.columns, last.hash, end.hash))
                counts[entry.event_type] = counts.get(entry.event_type, 0) + 1
                last = end
            batch.queue(_MOVE_HEAD, (last.seq, last.hash, _encode(counts).decode(), tenant_id))
        signal.announce(batch, self._pending)
        self._pending.clear()


_Head = tuple[ChainPoint, dict[str, int]]


def _lock_heads(batch: Batch, tenants: Sequence[str]) -> dict[str, _Head]:
    """The heads of the tenants that have a chain."""
    sql = _READ_HEADS.format(placeholders(tenants)) + batch.for_update
    return {
        tenant_id: (ChainPoint(seq, head), _decode_counts(counts))
        for tenant_id, seq, head, counts in batch.fetch_all(sql, tenants)
    }


def _add_head(batch: Batch, tenant_id: str) -> _Head:
    """The head of a chain that begins now, unless another process has begun it and committed in the meantime."""
    if batch.execute(_ADD_HEAD, (tenant_id, GENESIS)):
        return START, {}
    return _lock_heads(batch, [tenant_id])[tenant_id]


def record_audit(
    batch: Batch,
    *,
    tenant_id: str,
    event_type: str,
    actor: str,
    now: datetime,
    trace_id: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Appends an entry to the tenant's chain (`""`: the platform's) in the batch's transaction; redacts `details`.

    Raises ValueError for an event type that is not registered and for details that JSON cannot carry.
    """
    if event_type not in EVENT_TYPES:
        raise ValueError(f"{event_type!r} is not a registered audit event")
    stamp = now.replace(microsecond=now.microsecond // 1000 * 1000)
    content = canonical_json(redact(dict(details))) if details else b"{}"
    template = entry_template(
        tenant_id=tenant_id,
        timestamp=iso(stamp),
        event_type=event_type,
        trace_id=trace_id,
        actor=actor,
        details=content,
    )
    pending = _Pending(template, event_type, (stamp, event_type, trace_id, actor, content.decode()))
    batch.shared(AuditTail).add(tenant_id, pending)
