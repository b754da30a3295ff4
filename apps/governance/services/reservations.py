"""Reservations: money is set aside before each model call and settled after it, in the writes of the run path.

Invariant at every commit: spent + reserved ≤ hard limit (as long as no provider uses more than it was allowed to), and
reserved = the sum of the tenant's holds. Whatever changes a hold locks the budget's row first, tenants in ascending
order, so that runs, sweepers and settings never wait for each other in a circle.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from apps.audit.services.recording import record_audit
from apps.governance.domain.budget import period_bounds
from clasper.core.db import Batch
from clasper.core.money import MAX_NANO, NanoUSD, usd

BUDGET_WARNING = "budget.warning"

UNLIMITED = NanoUSD(MAX_NANO)

_TAKE = (
    "UPDATE tenant_budgets SET reserved = reserved + %s "
    "WHERE tenant_id = %s AND period_end > %s AND hard_limit - spent - reserved >= %s "
    "RETURNING hard_limit, spent, reserved, allow_unpriced"
)
_HOLD = (
    "INSERT INTO budget_holds (trace_id, tenant_id, amount, lease_until) VALUES (%s, %s, %s, %s) "
    "ON CONFLICT (trace_id) DO UPDATE SET amount = budget_holds.amount + excluded.amount, "
    "lease_until = excluded.lease_until"
)
_SPEND = (
    "UPDATE tenant_budgets SET spent = spent + %s WHERE tenant_id = %s AND period_end > %s "
    'RETURNING spent, soft_limit, "limit", warned'
)
_FREE = "UPDATE tenant_budgets SET reserved = reserved - %s WHERE tenant_id = %s"
_WARN = "UPDATE tenant_budgets SET warned = TRUE WHERE tenant_id = %s AND NOT warned"


@dataclass(frozen=True, slots=True)
class Reservation:
    """What `reserve` returns.

    `held` is what was set aside by this call; None means that nothing limits the run (no budget, or one that only
    watches). `available` is what the hard limit leaves free after this decision. `allow_unpriced` says whether a model
    of unknown price may run: without a budget always, under one only if the tenant opted in.
    """

    granted: bool
    held: NanoUSD | None
    available: NanoUSD
    hard_limit: NanoUSD | None
    allow_unpriced: bool


def reserve(
    batch: Batch,
    *,
    tenant_id: str,
    trace_id: str,
    worst_case: NanoUSD,
    at_least: NanoUSD,
    lease_until: datetime,
    now: datetime,
) -> Reservation:
    """Sets money aside for the run's next model call: `worst_case`, or all that is left if that is `at_least` enough.

    What the run already holds is added to. A call that costs nothing is always granted.
    """
    wanted = NanoUSD(min(worst_case, MAX_NANO))
    row = _take(batch, tenant_id, wanted, now)
    if row is None:
        budget = lock_current(batch, tenant_id, now)
        if budget is None:
            return Reservation(True, None, UNLIMITED, None, True)
        if budget.hard_limit is None:
            return Reservation(True, None, UNLIMITED, None, budget.allow_unpriced)
        available = NanoUSD(budget.hard_limit - budget.spent - budget.reserved)
        free = NanoUSD(max(available, 0))
        if free < min(wanted, at_least):
            return Reservation(False, NanoUSD(0), available, budget.hard_limit, budget.allow_unpriced)
        wanted = min(wanted, free)
        row = _take(batch, tenant_id, wanted, now) if wanted else None
        if row is None:
            # Under the lock only a call that costs nothing comes here; it needs no hold.
            return Reservation(not wanted, NanoUSD(0), available, budget.hard_limit, budget.allow_unpriced)
    if wanted:
        batch.execute(_HOLD, (trace_id, tenant_id, wanted, lease_until))
    hard_limit, spent, reserved, allow_unpriced = row
    return Reservation(True, wanted, NanoUSD(hard_limit - spent - reserved), hard_limit, bool(allow_unpriced))


def settle_call(
    batch: Batch, *, tenant_id: str, trace_id: str, cost: NanoUSD, now: datetime, actor: str, keep_hold: bool
) -> None:
    """Books what a model call really cost and frees what the run held for it.

    With `keep_hold` the hold stays as an empty row, because another call follows. A cost of 0 only frees. The real
    cost is booked even where it exceeds the hold. The first settlement that reaches the soft limit in a period writes
    one `budget.warning`.
    """
    params = (min(cost, MAX_NANO), tenant_id, now)
    row = batch.fetch_one(_SPEND, params)
    if row is None:
        if lock_current(batch, tenant_id, now) is None:
            return
        row = batch.fetch_one(_SPEND, params)
    held = _free_hold(batch, trace_id, keep=keep_hold)
    if held:
        batch.execute(_FREE, (held, tenant_id))
    if row is not None:
        spent, soft_limit, limit, warned = row
        if spent >= soft_limit and not warned and batch.execute(_WARN, (tenant_id,)):
            record_audit(
                batch,
                tenant_id=tenant_id,
                event_type=BUDGET_WARNING,
                actor=actor,
                now=now,
                trace_id=trace_id,
                details={"spent": usd(spent), "soft_limit": usd(soft_limit), "limit": usd(limit)},
            )


def release_expired(batch: Batch, *, now: datetime, limit: int = 200) -> list[tuple[str, str]]:
    """Frees the holds of at most `limit` runs whose lease is over; returns their (tenant, trace) in tenant order.

    Locks many tenants, so it needs a transaction of its own, not one shared with other tenants' writes.
    """
    expired = batch.fetch_all(
        "SELECT tenant_id, trace_id FROM budget_holds WHERE lease_until <= %s ORDER BY lease_until LIMIT %s",
        (now, limit),
    )
    runs_of: dict[str, list[str]] = defaultdict(list)
    for tenant_id, trace_id in expired:
        runs_of[tenant_id].append(trace_id)
    released: list[tuple[str, str]] = []
    for tenant_id in sorted(runs_of):
        lock_current(batch, tenant_id, now)
        freed = 0
        for trace_id in sorted(runs_of[tenant_id]):
            # Looked at again under the lock: the run may have settled, or renewed its lease, in the meantime.
            row = batch.fetch_one(
                "DELETE FROM budget_holds WHERE trace_id = %s AND lease_until <= %s RETURNING amount", (trace_id, now)
            )
            if row is not None:
                freed += row[0]
                released.append((tenant_id, trace_id))
        if freed:
            batch.execute(_FREE, (freed, tenant_id))
    return released


def roll_over_due(batch: Batch, *, now: datetime) -> int:
    """Begins the current period of every budget whose last one is over; returns how many. Runs do the same lazily.

    Locks many tenants, so it needs a transaction of its own, like `release_expired`.
    """
    due = batch.fetch_all("SELECT tenant_id FROM tenant_budgets WHERE period_end <= %s ORDER BY tenant_id", (now,))
    for (tenant_id,) in due:
        lock_current(batch, tenant_id, now)
    return len(due)


@dataclass(frozen=True, slots=True)
class _Locked:
    """The fields of a locked budget that decide about a reservation."""

    hard_limit: NanoUSD | None
    spent: NanoUSD
    reserved: NanoUSD
    allow_unpriced: bool


def _take(batch: Batch, tenant_id: str, amount: NanoUSD, now: datetime) -> tuple[Any, ...] | None:
    """The one statement that decides: reserves `amount` if, and only if, the hard limit allows it."""
    return batch.fetch_one(_TAKE, (amount, tenant_id, now, amount))


def lock_current(batch: Batch, tenant_id: str, now: datetime) -> _Locked | None:
    """Locks the tenant's budget and brings it into the period of `now`; None for a tenant without one."""
    row = batch.fetch_one(
        "SELECT hard_limit, spent, reserved, allow_unpriced, period, period_end <= %s FROM tenant_budgets "
        f"WHERE tenant_id = %s{batch.for_update}",
        (now, tenant_id),
    )
    if row is None:
        return None
    hard_limit, spent, reserved, allow_unpriced, period, due = row
    if due:
        _roll_over(batch, tenant_id, period, now)
        spent = 0
    return _Locked(hard_limit, spent, reserved, bool(allow_unpriced))


def _roll_over(batch: Batch, tenant_id: str, period: str, now: datetime) -> None:
    batch.execute(
        'INSERT INTO budget_periods (tenant_id, period, period_start, period_end, "limit", spent) '
        'SELECT tenant_id, period, period_start, period_end, "limit", spent FROM tenant_budgets WHERE tenant_id = %s '
        "ON CONFLICT (tenant_id, period_start, period) DO NOTHING",
        (tenant_id,),
    )
    batch.execute(
        "UPDATE tenant_budgets SET spent = 0, warned = FALSE, period_start = %s, period_end = %s WHERE tenant_id = %s",
        (*period_bounds(period, now), tenant_id),
    )


def _free_hold(batch: Batch, trace_id: str, *, keep: bool) -> int:
    """Deletes the run's hold, or empties it; returns its amount."""
    if not keep:
        row = batch.fetch_one("DELETE FROM budget_holds WHERE trace_id = %s RETURNING amount", (trace_id,))
        return row[0] if row else 0
    row = batch.fetch_one("SELECT amount FROM budget_holds WHERE trace_id = %s", (trace_id,))
    if row is None or not row[0]:
        return 0
    batch.execute("UPDATE budget_holds SET amount = 0 WHERE trace_id = %s", (trace_id,))
    return int(row[0])
