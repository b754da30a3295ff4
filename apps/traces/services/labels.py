"""Labels that people and callers put on a run; changes are audited."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from apps.audit.services.recording import record_audit
from clasper.core.db import Batch, atomic_batch
from clasper.core.errors import InvalidRequest, NotFound
from clasper.core.ids import is_uuid
from clasper.core.redaction import redact_text
from clasper.core.tenancy import TenantScope

MAX_LABELS = 50
MAX_KEY = 64
MAX_VALUE = 256

_READ = "SELECT key, value FROM trace_labels WHERE tenant_id = %s AND trace_id = %s ORDER BY key"
_SET = """INSERT INTO trace_labels (tenant_id, trace_id, key, value, started_at) VALUES (%s, %s, %s, %s, %s)
 ON CONFLICT (tenant_id, trace_id, key) DO UPDATE SET value = excluded.value"""
_REMOVE = "DELETE FROM trace_labels WHERE tenant_id = %s AND trace_id = %s AND key = %s"


def label_trace(
    *, tenants: TenantScope, trace_id: str, changes: Mapping[str, str | None], actor: str, now: datetime
) -> dict[str, str]:
    """Merges labels into those of a run and returns all of them; None or "" removes one. They are redacted.

    Raises NotFound for an unknown id and another tenant's run alike, InvalidRequest for more than MAX_LABELS labels.
    """
    with atomic_batch() as batch:
        trace = lock_trace(batch, tenants=tenants, trace_id=trace_id)
        owner = (trace.tenant_id, trace_id.lower())
        before: dict[str, str] = dict(batch.fetch_all(_READ, owner))
        wanted = {stored_key(key): redact_text(text)[:MAX_VALUE] if text else None for key, text in changes.items()}
        merged = {key: value for key, value in {**before, **wanted}.items() if value is not None}
        if len(merged) > MAX_LABELS:
            raise InvalidRequest(field_errors={"labels": [f"A trace has at most {MAX_LABELS} labels."]})
        added = {key: value for key, value in merged.items() if before.get(key) != value}
        removed = sorted(before.keys() - merged.keys())
        for key, value in added.items():
            batch.execute(_SET, (*owner, key, value, trace.started_at))
        for key in removed:
            batch.execute(_REMOVE, (*owner, key))
        if added or removed:
            record_audit(
                batch,
                tenant_id=trace.tenant_id,
                event_type="trace.label",
                actor=actor,
                now=now,
                trace_id=trace_id.lower(),
                details={"set": added, "removed": removed},
            )
    return dict(sorted(merged.items()))


def stored_key(key: str) -> str:
    """The key of a label or annotation as it may be stored: redacted, but never empty."""
    return redact_text(key)[:MAX_KEY] or "[WITHHELD]"


class LockedTrace(NamedTuple):
    """The run's tenant and start, as the database returns it."""

    tenant_id: str
    started_at: Any


def lock_trace(batch: Batch, *, tenants: TenantScope, trace_id: str) -> LockedTrace:
    """Keeps others from changing the run's labels and annotations until the batch ends. Raises NotFound."""
    row = None
    if is_uuid(trace_id):
        sql = f"SELECT tenant_id, started_at FROM traces WHERE id = %s{batch.for_update}"
        row = batch.fetch_one(sql, (trace_id.lower(),))
    if row is None or not tenants.includes(row[0]):
        raise NotFound("No such trace.")
    return LockedTrace(*row)
