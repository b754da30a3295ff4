"""Exports of the audit log: entries in the order of their chains, a chunk at a time, with a checkpoint at each end."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec

from apps.audit.domain.chain import ChainPoint, ChainReport, check_end, verify
from apps.audit.models import AuditEntry
from apps.audit.queries import audit_tenants, chain_chunk, chain_end, chain_part, chain_point, chain_rows
from apps.audit.services.checkpoints import checkpoint_at, existing_chain, signing_key
from apps.audit.services.recording import record_audit
from clasper.core.clock import iso
from clasper.core.db import atomic_batch
from clasper.core.export import csv_text
from clasper.core.tenancy import AllTenants, TenantScope

CHUNK_ENTRIES = 1_000
"""Entries in memory at once; no query and no transaction outlives a chunk."""

Format = Literal["ndjson", "csv"]
NDJSON: Format = "ndjson"
CSV: Format = "csv"
MEDIA_TYPES: Mapping[Format, str] = {NDJSON: "application/x-ndjson", CSV: "text/csv; charset=utf-8"}

COLUMNS = (
    "id", "timestamp", "event_type", "tenant_id", "trace_id", "actor", "details", "seq", "prev_hash", "hash",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What is exported: of every chain the part in the time range, of `recorded_in` only the entries up to `head`."""

    tenants: Sequence[str]
    format_name: str
    start: datetime | None
    end: datetime | None
    recorded_in: str
    head: ChainPoint
    last_stored_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """An unbroken part of a chain, the seqs from `first` to `last`, and where the chain ends."""

    tenant_id: str
    first: int
    last: int
    head: ChainPoint
    last_stored_seq: int


def plan_export(
    *,
    tenants: TenantScope,
    format_name: str,
    actor: str,
    now: datetime,
    start: datetime | None = None,
    end: datetime | None = None,
) -> Export:
    """Begins an export of the scope's chains, in order.

    It is recorded as `audit.export`, after its own last entry and in the platform's chain when every chain is meant.
    Raises NotFound for a tenant without entries.
    """
    every = isinstance(tenants, AllTenants)
    recorded_in = tenants.audit_chain
    head, last_stored_seq = chain_end(recorded_in) if every else existing_chain(recorded_in)
    export = Export(
        tenants=audit_tenants() if every else [recorded_in],
        format_name=format_name,
        start=start,
        end=end,
        recorded_in=recorded_in,
        head=head,
        last_stored_seq=last_stored_seq,
    )
    details = {"format": format_name, "start": iso(start) if start else None, "end": iso(end) if end else None}
    with atomic_batch() as batch:
        record_audit(batch, tenant_id=recorded_in, event_type="audit.export", actor=actor, now=now, details=details)
    return export


def export_chunks(export: Export, *, now: datetime) -> Iterator[bytes]:
    """The export as bytes; csv is for reading and contains entries only.

    In ndjson a chain's entries are followed by a line: what is wrong with them, if they or the entry after them do not
    verify; otherwise, if there is a signing key, a checkpoint of the last one.
    """
    ndjson = export.format_name == NDJSON
    if not ndjson:
        yield csv_text([COLUMNS])
    for part in filter(None, (_part(export, tenant_id) for tenant_id in export.tenants)):
        report, last = yield from _entries(part, _ndjson if ndjson else _csv)
        if ndjson:
            yield from _last_line(part.tenant_id, report, last, now=now)


def _part(export: Export, tenant_id: str) -> _Part | None:
    """The part of a chain that is exported, up to its end now; None when nothing lies in the time range."""
    own = tenant_id == export.recorded_in
    head, last_stored_seq = (export.head, export.last_stored_seq) if own else chain_end(tenant_id)
    part = chain_part(tenant_id, up_to=head.seq, start=export.start, end=export.end)
    if part is None:
        return None
    return _Part(tenant_id=tenant_id, first=part[0], last=part[1], head=head, last_stored_seq=last_stored_seq)


def _entries(
    part: _Part, render: Callable[[list[Any]], bytes]
) -> Generator[bytes, None, tuple[ChainReport, ChainPoint]]:
    """The part's chunks; returns its report and the point of its last good entry."""
    last = chain_point(part.tenant_id, part.first - 1)
    report = verify((), last)
    after = part.first - 1
    while after < part.last:
        rows = chain_chunk(part.tenant_id, after=after, up_to=part.last, size=CHUNK_ENTRIES)
        if not rows:
            break
        yield render(rows)
        after = rows[-1].seq
        if report.valid:
            report = verify(rows, last)
            last = ChainPoint(report.last_seq, report.last_hash)
    return _check_the_rest(part, report, last), last


def _check_the_rest(part: _Part, report: ChainReport, last: ChainPoint) -> ChainReport:
    """The report of the entries up to `last`, compared with what the part lacks, the entry after it, and the head.

    Only what follows reveals a last entry that was changed together with its hash.
    """
    up_to = min(part.last + 1, part.head.seq)
    if report.valid:
        report = verify(chain_rows(part.tenant_id, after=last.seq, up_to=up_to), last)
    if up_to == part.head.seq:
        return check_end(report, head=part.head, last_stored_seq=part.last_stored_seq)
    return check_end(report, head=ChainPoint(up_to, report.last_hash), last_stored_seq=up_to)


def _last_line(tenant_id: str, report: ChainReport, last: ChainPoint, *, now: datetime) -> Iterator[bytes]:
    if not report.valid:
        found = {"tenant_id": tenant_id, "first_bad_seq": report.first_bad_seq, "reason": report.reason}
        yield msgspec.json.encode({"broken": found}) + b"\n"
    elif (key := signing_key()) is not None:
        checkpoint = checkpoint_at(tenant_id, last, key=key, now=now)
        yield msgspec.json.encode({"checkpoint": checkpoint}) + b"\n"


def _ndjson(rows: list[AuditEntry]) -> bytes:
    return b"".join(msgspec.json.encode(_shown(row) | {"details": _raw(row.details)}) + b"\n" for row in rows)


def _raw(details: str) -> msgspec.Raw | str:
    """The stored JSON as it is; what is not JSON, as a string, so that broken entries are exported too."""
    try:
        msgspec.json.decode(details)
    except msgspec.DecodeError:
        return details
    return msgspec.Raw(details.encode())


def _csv(rows: list[AuditEntry]) -> bytes:
    return csv_text(_shown(row).values() for row in rows)


def _shown(row: AuditEntry) -> dict[str, Any]:
    # SQLite stores any text as an instant; Django reads None if it is not one.
    return {name: getattr(row, name) for name in COLUMNS} | {"timestamp": row.timestamp and iso(row.timestamp)}
