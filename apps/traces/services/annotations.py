"""Notes on a run, which are added and never changed."""

from __future__ import annotations

from datetime import datetime

from apps.audit.services.recording import record_audit
from apps.traces import queries
from apps.traces.domain.views import AnnotationView
from apps.traces.services.labels import lock_trace, stored_key
from apps.traces.services.reading import annotation_view, find_trace
from clasper.core.db import atomic_batch
from clasper.core.errors import InvalidRequest
from clasper.core.redaction import redact_text
from clasper.core.tenancy import TenantScope

MAX_ANNOTATIONS = 1_000
MAX_VALUE = 10_000
MAX_AUTHOR = 160

_COUNT = "SELECT COUNT(*) FROM trace_annotations WHERE tenant_id = %s AND trace_id = %s"
_ADD = """INSERT INTO trace_annotations (tenant_id, trace_id, key, value, created_at, created_by)
 VALUES (%s, %s, %s, %s, %s, %s) RETURNING id"""


def annotate_trace(
    *, tenants: TenantScope, trace_id: str, key: str, value: str, actor: str, now: datetime, author: str = ""
) -> AnnotationView:
    """Adds a note to a run; it is redacted. `author` is whoever the caller names, by default the actor.

    Raises NotFound for an unknown id and another tenant's run alike, InvalidRequest beyond MAX_ANNOTATIONS.
    """
    trace_id = trace_id.lower()
    key, value, named = stored_key(key), redact_text(value), redact_text(author)[:MAX_AUTHOR]
    author = named or actor[:MAX_AUTHOR]
    with atomic_batch() as batch:
        owner = lock_trace(batch, tenants=tenants, trace_id=trace_id).tenant_id
        if (batch.fetch_one(_COUNT, (owner, trace_id)) or (0,))[0] >= MAX_ANNOTATIONS:
            raise InvalidRequest(form_errors=[f"A trace has at most {MAX_ANNOTATIONS} annotations."])
        row = batch.fetch_one(_ADD, (owner, trace_id, key, value, now, author))
        assert row is not None
        record_audit(
            batch,
            tenant_id=owner,
            event_type="trace.annotate",
            actor=actor,
            now=now,
            trace_id=trace_id,
            details={"annotation_id": row[0], "key": key, **({"created_by": named} if named else {})},
        )
    return AnnotationView(id=row[0], trace_id=trace_id, key=key, value=value, created_at=now, created_by=author)


def list_annotations(*, tenants: TenantScope, trace_id: str) -> tuple[AnnotationView, ...]:
    """The notes on a run, oldest first. Raises NotFound for an unknown id and another tenant's run alike."""
    trace = find_trace(tenants=tenants, trace_id=trace_id)
    return tuple(annotation_view(note) for note in queries.annotations_of(trace))
