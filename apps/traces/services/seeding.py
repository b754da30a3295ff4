"""Writes invented runs by the thousand, as real runs are written."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from itertools import islice

from apps.governance.services.prices import price_book
from apps.governance.services.usage import record_usage
from apps.traces.domain.sample_runs import sample_runs
from apps.traces.services.recording import close_trace, link_delivered, open_trace
from clasper.core.db import atomic_batch
from clasper.core.errors import Conflict

BATCH = 1000
"""Runs a transaction: enough to make commits cheap, few enough that other writers wait only a moment."""


def seed_traces(
    *, tenant_id: str, count: int, days: int, seed: int, until: datetime, progress: Callable[[int], None]
) -> None:
    """Writes `count` invented runs of the `days` before `until`; calls `progress` with the number written so far.

    Each batch is committed by itself. Raises Conflict, having written nothing, when these runs exist already.
    """
    runs = sample_runs(tenant_id=tenant_id, count=count, days=days, seed=seed, until=until, prices=price_book())
    written = 0
    while some := list(islice(runs, BATCH)):
        with atomic_batch() as batch:
            if not all(open_trace(run.start)(batch) for run in some):
                raise Conflict("These runs exist already; choose another --seed.")
            batch.flush_rows()
            for _, end, message_id in some:
                close_trace(end)(batch)
                link_delivered(batch, tenant_id=end.tenant_id, trace_id=end.id, message_id=message_id)
                record_usage(batch, tenant_id=end.tenant_id, now=end.ended_at, usage=end.usage, cost=end.cost)
        written += len(some)
        progress(written)
