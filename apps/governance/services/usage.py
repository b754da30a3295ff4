"""The usage ledger: what each tenant's runs used, one row per UTC day."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal

import msgspec
from django.db.models import Sum

from apps.governance.models import DailyUsage
from clasper.core.db import Batch
from clasper.core.money import NanoUSD
from clasper.core.schemas import Count, Money, Resource, about
from clasper.core.tenancy import TenantScope
from clasper.core.usage import Usage

_ADD = (
    "INSERT INTO spend_days (tenant_id, day, requests, input_tokens, output_tokens, cost) "
    "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (tenant_id, day) DO UPDATE SET "
    "requests = spend_days.requests + excluded.requests, "
    "input_tokens = spend_days.input_tokens + excluded.input_tokens, "
    "output_tokens = spend_days.output_tokens + excluded.output_tokens, "
    "cost = spend_days.cost + excluded.cost"
)


class UsageTotals(Resource, frozen=True, kw_only=True):
    """Sums over days."""

    requests: Count = msgspec.field(name="requestCount")
    input_tokens: Annotated[Count, about("Cached ones too.")] = msgspec.field(name="totalInputTokens")
    output_tokens: Count = msgspec.field(name="totalOutputTokens")
    total_tokens: Count = msgspec.field(name="totalTokens")
    cost: Money = msgspec.field(name="totalCost")
    currency: Literal["USD"] = "USD"


class UsageSums:
    """What the runs of one batch used, written by one statement per tenant and day."""

    lock_order: ClassVar[int] = 30

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])

    def add(self, tenant_id: str, day: str, amounts: tuple[int, int, int, int]) -> None:
        """Adds (requests, input tokens, output tokens, cost) to the tenant's ISO `day`."""
        sums = self._sums[tenant_id, day]
        for index, amount in enumerate(amounts):
            sums[index] += amount

    def flush(self, batch: Batch) -> None:
        for key in sorted(self._sums):
            batch.queue(_ADD, (*key, *self._sums[key]))


def record_usage(
    batch: Batch, *, tenant_id: str, now: datetime, usage: Usage, cost: NanoUSD, requests: int = 1
) -> None:
    """Adds a run's usage to the ledger of its day."""
    day = now.astimezone(UTC).date().isoformat()
    batch.shared(UsageSums).add(tenant_id, day, (requests, usage.prompt_tokens, usage.output, cost))


def usage_totals(*, tenants: TenantScope, since: datetime, now: datetime) -> UsageTotals:
    """What the scope used from the UTC day of `since` up to and with the day of `now`."""
    first, last = since.astimezone(UTC).date(), now.astimezone(UTC).date()
    days = DailyUsage.objects.in_scope(tenants).filter(day__gte=first, day__lte=last)
    fields = ("requests", "input_tokens", "output_tokens", "cost")
    sums = days.aggregate(**{f"sum_{field}": Sum(field) for field in fields})
    requests, input_tokens, output_tokens, cost = (int(sums[f"sum_{field}"] or 0) for field in fields)
    return UsageTotals(
        requests=requests,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        total_tokens=input_tokens + output_tokens,
        cost=NanoUSD(cost),
    )
