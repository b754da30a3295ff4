"""The usage ledger: one row a tenant and day, exact under grouping."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.governance.models import DailyUsage
from apps.governance.services.usage import UsageTotals, record_usage, usage_totals
from clasper.core.db import Batch, GroupWriter, atomic_batch
from clasper.core.money import NanoUSD
from clasper.core.tenancy import ALL_TENANTS, OneTenant
from clasper.core.usage import Usage

CALL = Usage(input=10, cached=20, cache_write=30, output=40, reasoning=35)


def totals_of(requests: int, input_tokens: int, output_tokens: int, cost: int) -> UsageTotals:
    return UsageTotals(
        requests=requests,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        total_tokens=input_tokens + output_tokens,
        cost=NanoUSD(cost),
    )


def test_all_prompt_tokens_count_and_days_add_up(store: None, now: datetime) -> None:
    for days in (0, 0, 1, 40):
        with atomic_batch() as batch:
            record_usage(batch, tenant_id="acme", now=now - timedelta(days=days), usage=CALL, cost=NanoUSD(7))
            record_usage(batch, tenant_id="globex", now=now, usage=CALL, cost=NanoUSD(1), requests=0)
    assert DailyUsage.objects.filter(tenant_id="acme").count() == 3
    assert usage_totals(tenants=OneTenant("acme"), since=now, now=now) == totals_of(2, 120, 80, 14)
    month = usage_totals(tenants=OneTenant("acme"), since=now - timedelta(days=30), now=now)
    assert (month.requests, month.total_tokens, month.cost) == (3, 300, 21)
    everybody = usage_totals(tenants=ALL_TENANTS, since=now, now=now)
    assert (everybody.requests, everybody.cost) == (2, 14 + 4)
    assert usage_totals(tenants=OneTenant("nobody"), since=now, now=now) == totals_of(0, 0, 0, 0)
    assert usage_totals(tenants=OneTenant("acme"), since=now + timedelta(days=9), now=now) == totals_of(0, 0, 0, 0)


def test_a_batch_writes_one_statement_a_tenant_and_day(store: None, now: datetime) -> None:
    with CaptureQueriesContext(connection) as queries, atomic_batch() as batch:
        for _ in range(20):
            record_usage(batch, tenant_id="globex", now=now, usage=CALL, cost=NanoUSD(1))
            record_usage(batch, tenant_id="acme", now=now, usage=CALL, cost=NanoUSD(1))
    assert sum("spend_days" in each["sql"] for each in queries) <= 2
    assert set(DailyUsage.objects.values_list("tenant_id", "requests")) == {("acme", 20), ("globex", 20)}


def test_concurrent_runs_lose_nothing(store: None, now: datetime) -> None:
    writers = [GroupWriter(), GroupWriter()]

    def job(batch: Batch) -> None:
        record_usage(batch, tenant_id="acme", now=now, usage=CALL, cost=NanoUSD(3))

    async def all_at_once() -> None:
        await asyncio.gather(*(writers[number % 2].submit(job, key="acme") for number in range(200)))

    asyncio.run(all_at_once())
    for writer in writers:
        writer.close()
    totals = usage_totals(tenants=OneTenant("acme"), since=now, now=now)
    assert totals == totals_of(200, 200 * 60, 200 * 40, 600)
