"""Exports of the audit log: entries in the order of their chains, a chunk at a time, with a checkpoint at each end."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from apps.governance.domain.audit import ChainPoint
from apps.governance.domain.checkpoint import checkpoint_body
from apps.governance.models import AuditEntry
from apps.governance.queries import audit_tenants, chain_chunk, chain_end, chain_part, chain_point
from apps.governance.services.audit import record_audit
from apps.governance.services.checkpoints import checkpoint_at, signing_key
from clasper.core.clock import iso
from clasper.core.db import atomic_batch
from clasper.core.export import csv_text

CHUNK_ENTRIES = 1_000
"""Entries in memory at once; no query and no transaction outlives a chunk."""

NDJSON = "ndjson"
CSV = "csv"
MEDIA_TYPES = {NDJSON: "application/x-ndjson", CSV: "text/csv; charset=utf-8"}

COLUMNS = (
    "id", "timestamp", "event_type", "tenant_id", "trace_id", "actor", "details", "seq", "prev_hash", "hash",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPart:
    """The unbroken part of one chain that is exported: the seqs from `first` to `last`, none when `last` is less."""

    tenant_id: str
    first: int
    last: int


def plan_export(
    *,
    tenant_id: str | None,
    format_name: str,
    actor: str,
    now: datetime,
    start: datetime | None = None,
    end: datetime | None = None,
) -> list[ExportPart]:
    """Which parts of which chains are exported, up to their ends now; `tenant_id` None means every chain, in order.

    Then recorded as `audit.export`, in the platform's chain when every chain is meant.
    """
    tenants = audit_tenants() if tenant_id is None else [tenant_id]
    parts = [_part(each, start, end) for each in tenants]
    details = {"format": format_name, "start": iso(start) if start else None, "end": iso(end) if end else None}
    with atomic_batch() as batch:
        record_audit(batch, tenant_id=tenant_id or "", event_type="audit.export", actor=actor, now=now, details=details)
    return parts


def export_chunks(parts: Iterable[ExportPart], *, format_name: str, now: datetime) -> Iterator[bytes]:
    """The export as bytes. In ndjson each chain's entries are followed by a checkpoint of the last one, if there is a
    signing key; csv is for reading and holds entries only.
    """
    if format_name == CSV:
        yield csv_text([COLUMNS])
    render = {NDJSON: _ndjson, CSV: _csv}[format_name]
    for part in parts:
        end = yield from _entries(part, render)
        key = signing_key()
        if key is not None and format_name == NDJSON:
            checkpoint = checkpoint_at(part.tenant_id, end, key=key, now=now)
            yield msgspec.json.encode({"checkpoint": checkpoint_body(checkpoint)}) + b"\n"


def _part(tenant_id: str, start: datetime | None, end: datetime | None) -> ExportPart:
    head, _ = chain_end(tenant_id)
    first, last = chain_part(tenant_id, up_to=head.seq, start=start, end=end)
    return ExportPart(tenant_id=tenant_id, first=first, last=last)


def _entries(part: ExportPart, render: Callable[[list[Any]], bytes]) -> Generator[bytes, None, ChainPoint]:
    """The part's chunks; returns where the last entry stands."""
    point = chain_point(part.tenant_id, part.first - 1)
    after = part.first - 1
    while after < part.last:
        rows = chain_chunk(part.tenant_id, after=after, up_to=part.last, size=CHUNK_ENTRIES)
        if not rows:
            break
        yield render(rows)
        after = rows[-1].seq
        point = ChainPoint(after, rows[-1].hash)
    return point


def _ndjson(rows: list[AuditEntry]) -> bytes:
    return b"".join(msgspec.json.encode(_shown(row) | {"details": _raw(row.details)}) + b"\n" for row in rows)


def _raw(details: str) -> msgspec.Raw | str:
    """The stored JSON as it is; a text that is no JSON any more as a text, so that a broken entry is exported too."""
    try:
        msgspec.json.decode(details)
    except msgspec.DecodeError:
        return details
    return msgspec.Raw(details.encode())


def _csv(rows: list[AuditEntry]) -> bytes:
    return csv_text(_shown(row).values() for row in rows)


def _shown(row: AuditEntry) -> dict[str, Any]:
    return {name: iso(row.timestamp) if name == "timestamp" else getattr(row, name) for name in COLUMNS}
