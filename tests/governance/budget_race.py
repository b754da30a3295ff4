"""Workers that race for one tenant's budget: imported by the test, and run by it as processes of their own.

As a program: `budget_race.py TENANT SEED WORKERS [STALL_AFTER]` against the database of DATABASE_URL. It prints
`ready`, waits for a line, and ends when the budget lets no worker go on. With STALL_AFTER its calls hang from that one
on, holding their money, and it says `stalled`.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from datetime import timedelta

if __name__ == "__main__":
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "clasper.settings")
    django.setup()

from apps.governance.services.reservations import Reservation, reserve, settle_call
from apps.governance.services.usage import record_usage
from clasper.core.clock import utc_now
from clasper.core.db import Batch, GroupWriter
from clasper.core.money import NanoUSD, from_usd
from clasper.core.usage import Usage

SMALLEST = from_usd("0.001")
"""The smallest useful call: what is left below it at the end cannot be used by anybody."""

DEAREST = from_usd("0.01")
LEASE = timedelta(seconds=2)


def overspent(batch: Batch, tenant_id: str) -> str:
    """What is wrong with the ledger at this instant; empty when nothing is."""
    row = batch.fetch_one("SELECT spent, reserved, hard_limit FROM tenant_budgets WHERE tenant_id = %s", (tenant_id,))
    held = batch.fetch_one("SELECT COALESCE(SUM(amount), 0) FROM budget_holds WHERE tenant_id = %s", (tenant_id,))
    assert row is not None
    assert held is not None
    spent, reserved, hard_limit = row
    return "" if spent + reserved <= hard_limit and reserved == held[0] else f"{row} with {held[0]} held"


async def call(writer: GroupWriter, tenant_id: str, trace_id: str, rng: random.Random, *, stall: bool) -> bool:
    """One model call: reserve, work, settle at a random cost within the hold. False when the budget refuses."""
    worst_case = NanoUSD(rng.randint(SMALLEST, DEAREST))
    share = rng.choice((0.0, 0.1, rng.random(), 1.0))

    def begin(batch: Batch) -> tuple[Reservation, str]:
        now = utc_now()
        answer = reserve(
            batch,
            tenant_id=tenant_id,
            trace_id=trace_id,
            worst_case=worst_case,
            at_least=SMALLEST,
            lease_until=now + LEASE,
            now=now,
        )
        return answer, overspent(batch, tenant_id)

    reservation, fault = await writer.submit(begin, key=tenant_id)
    assert not fault, fault
    if not reservation.granted:
        return False
    assert reservation.held is not None
    assert SMALLEST <= reservation.held <= worst_case
    if stall:
        print("stalled", flush=True)  # noqa: T201  the parent process waits for it
        await asyncio.sleep(60)
    await asyncio.sleep(rng.random() / 200)
    cost = NanoUSD(int(reservation.held * share))

    def end(batch: Batch) -> str:
        now = utc_now()
        settle_call(
            batch,
            tenant_id=tenant_id,
            trace_id=trace_id,
            cost=cost,
            now=now,
            actor="agent:race",
            keep_hold=share > 0.5,
        )
        record_usage(batch, tenant_id=tenant_id, now=now, usage=Usage(1, 0, 0, 1), cost=cost)
        return overspent(batch, tenant_id)

    fault = await writer.submit(end, key=tenant_id)
    assert not fault, fault
    return True


async def race(tenant_id: str, *, seed: int, workers: int, stall_after: int | None = None) -> None:
    """Runs the workers until the budget refuses each of them."""
    writer = GroupWriter()

    async def work(number: int) -> None:
        rng = random.Random(f"{seed}/{number}")
        calls = 0
        while await call(writer, tenant_id, f"{seed}/{number}/{calls // 3}", rng, stall=calls == stall_after):
            calls += 1

    try:
        await asyncio.gather(*(work(number) for number in range(workers)))
    finally:
        await asyncio.to_thread(writer.close)


if __name__ == "__main__":
    tenant, *numbers = sys.argv[1:]
    print("ready", flush=True)  # noqa: T201  all processes begin together
    sys.stdin.readline()
    asyncio.run(race(tenant, **dict(zip(("seed", "workers", "stall_after"), map(int, numbers), strict=False))))
