"""Exports runs batch by batch, so that an export of any size keeps only one batch in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from apps.audit.services.recording import record_audit
from apps.traces import queries
from apps.traces.domain.filters import Filters
from apps.traces.domain.views import ExportedTrace
from apps.traces.models import Trace
from apps.traces.services.reading import step_view, summary_fields, value_of
from apps.traces.services.searching import search
from clasper.core.clock import iso
from clasper.core.db import atomic_batch
from clasper.core.money import NanoUSD, usd
from clasper.core.tenancy import AllTenants

BATCH = 500

STEPS = "steps"
CONTENT = "content"
PARTS = (STEPS, CONTENT)
"""What may be exported in addition to the rows of the list: the steps, and the stored texts."""


def record_export(*, filters: Filters, file_format: str, parts: Collection[str], actor: str, now: datetime) -> None:
    """Audits an export, with its filters, before its first row is sent."""
    given = {name: value for name, value in asdict(filters).items() if value not in (None, "")}
    given |= {name: iso(value) for name, value in given.items() if isinstance(value, datetime)}
    del given["tenants"]
    if not isinstance(filters.tenants, AllTenants):
        given["tenant_id"] = filters.tenants.tenant_id
    given |= {name: usd(NanoUSD(given[name])) for name in ("min_cost", "max_cost") if name in given}
    details = {"format": file_format, "include": sorted(parts), "filters": given}
    with atomic_batch() as batch:
        chain = filters.tenants.audit_chain
        record_audit(batch, tenant_id=chain, event_type="trace.export", actor=actor, now=now, details=details)


def export_batches(*, filters: Filters, parts: Collection[str] = ()) -> Iterator[list[ExportedTrace]]:
    """The runs that match, newest first, in batches of at most BATCH; each batch is read on its own."""
    found = search(filters)
    after: queries.CursorKey | None = None
    while True:
        rows, after = found.page(after=after, limit=BATCH)
        yield _exported(rows, parts)
        if after is None:
            return


def _exported(rows: list[Trace], parts: Collection[str]) -> list[ExportedTrace]:
    labels = queries.labels_of(rows)
    steps = queries.steps_of(rows) if STEPS in parts else None
    payloads = queries.payloads_of(rows) if CONTENT in parts else {}
    exported = []
    for row in rows:
        texts = payloads.get(row.id, {})
        more: dict[str, Any] = {}
        if steps is not None:
            views = tuple(step_view(step, texts.get(step.seq)) for step in steps.get(row.id, ()))
            if CONTENT not in parts:
                views = tuple(replace(view, arguments=UNSET, output=UNSET) for view in views)
            more["steps"] = views
        if CONTENT in parts:
            own = texts.get(0)
            more |= {"input": value_of(own.input) if own else None, "output": value_of(own.output) if own else None}
        exported.append(ExportedTrace(**summary_fields(row, labels.get(row.id, {})), **more))
    return exported
