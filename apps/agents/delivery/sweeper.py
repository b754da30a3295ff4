"""The sweeper: a periodic task that ends what a crash left behind and removes what has expired."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from apps.agents.delivery.idempotency import forget_expired, release_key
from apps.agents.delivery.outbox import held_webhook, release_webhook
from apps.agents.domain.responses import UsageBody
from apps.audit.services.recording import record_audit
from apps.governance.services.reservations import release_expired, roll_over_due, settle_call
from apps.governance.services.usage import record_usage
from apps.traces.domain.record import Orphan, TraceEnd
from apps.traces.services.recording import close_trace, orphaned
from clasper.core.db import Batch, writer
from clasper.core.money import NanoUSD, usd
from clasper.core.usage import Usage
from clasper.gateways.webhooks import build_payload

ACTOR = "system:sweeper"
BATCH = 100
MAX_DURATION_MS = 2**31 - 1
"""The column's largest value, about 24 days; only a run that no sweeper saw for so long exceeds it."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one sweep did: runs ended, reservations freed, budget periods rolled over, idempotency keys deleted."""

    runs: int
    holds: int
    periods: int
    keys: int


async def sweep(*, now: datetime) -> Sweep:
    """Ends runs whose lease has expired, frees their reservations, rolls budgets over, deletes expired answers."""

    def sweep_runs(batch: Batch) -> int:
        return sum(_sweep_run(batch, orphan, now) for orphan in orphaned(batch, now=now, limit=BATCH))

    runs = 0
    while swept := await writer.submit(sweep_runs, alone=True):
        runs += swept
    holds = await writer.submit(lambda batch: len(release_expired(batch, now=now)), alone=True)
    periods = await writer.submit(lambda batch: roll_over_due(batch, now=now), alone=True)
    keys = await writer.submit(lambda batch: forget_expired(batch, now=now), alone=True)
    return Sweep(runs, holds, periods, keys)


def _sweep_run(batch: Batch, orphan: Orphan, now: datetime) -> bool:
    """Settles what the trace recorded, which is every paid call: one is written before the next begins."""
    usage = Usage(input=orphan.prompt_tokens, output=orphan.completion_tokens)
    closing = TraceEnd(
        id=orphan.id,
        tenant_id=orphan.tenant_id,
        status="error",
        ended_at=now,
        duration_ms=min(max(0, int((now - orphan.started_at).total_seconds() * 1000)), MAX_DURATION_MS),
        provider=orphan.provider,
        model=orphan.model,
        usage=usage,
        cost=NanoUSD(orphan.cost),
        price_version="",
        estimated=False,
        error_code="interrupted",
        error="The process of this run died; the sweeper ended the run.",
    )
    if not close_trace(closing)(batch):
        return False
    common: dict[str, Any] = {"tenant_id": orphan.tenant_id, "now": now, "actor": ACTOR, "trace_id": orphan.id}
    settle_call(batch, cost=NanoUSD(0), keep_hold=False, **common)
    record_usage(batch, tenant_id=orphan.tenant_id, now=now, usage=Usage(), cost=NanoUSD(0), requests=1)
    release_key(batch, tenant_id=orphan.tenant_id, trace_id=orphan.id)
    _report(batch, orphan, closing)
    record_audit(batch, event_type="run.swept", details={"recorded_steps": orphan.steps}, **common)
    return True


def _report(batch: Batch, orphan: Orphan, closing: TraceEnd) -> None:
    """Reports the end to the run's webhook, if it has one."""
    target = held_webhook(batch, tenant_id=orphan.tenant_id, trace_id=orphan.id)
    if target is None:
        return
    body = build_payload(
        now=closing.ended_at,
        trace_id=orphan.id,
        task_id=None,
        user_id=target.user_id,
        role=target.role,
        response="",
        usage=msgspec.to_builtins(UsageBody.of(closing.usage)),
        cost={"model": orphan.model, "totalCost": usd(orphan.cost), "currency": "USD"},
        error=closing.error,
        code=closing.error_code,
    )
    release_webhook(batch, target, body, tenant_id=orphan.tenant_id, trace_id=orphan.id, now=closing.ended_at)
