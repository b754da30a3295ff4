"""What the tables say about money, and whether they agree with each other."""

from __future__ import annotations

from typing import Any

from django.db.models import Sum

from apps.agents.models import Delivery, StoredResponse
from apps.audit.services.reading import verify_all
from apps.governance.models import Budget, BudgetHold, DailyUsage
from apps.traces.models import Rollup, Trace, TraceStep
from clasper.core.money import NANO_PER_USD
from tests.world import ACME


def total(model: Any, field: str, **filters: Any) -> int:
    """The sum of a column."""
    return int(model.objects.filter(**filters).aggregate(sum=Sum(field))["sum"] or 0)


def held() -> int:
    """Nano-USD that are set aside for runs."""
    return total(BudgetHold, "amount") + total(Budget, "reserved")


def nano(dollars: float) -> int:
    return round(dollars * NANO_PER_USD)


def assert_balanced(tenant_id: str = ACME) -> None:
    """No run is under way, nothing is held, and every book of the tenant's money and tokens says the same."""
    assert not Trace.objects.filter(status="running").exists()
    assert held() == 0
    mine = {"tenant_id": tenant_id}
    cost = total(Trace, "cost", **mine)
    assert total(TraceStep, "cost", **mine) == cost
    assert total(DailyUsage, "cost", **mine) == cost
    assert total(Rollup, "cost", dimension="status", **mine) == cost
    budget = Budget.objects.filter(**mine).first()
    assert budget is None or budget.spent == cost
    tokens = total(Trace, "output_tokens", **mine)
    assert total(TraceStep, "completion_tokens", **mine) == tokens
    assert total(DailyUsage, "output_tokens", **mine) == tokens
    assert total(Rollup, "output_tokens", dimension="status", **mine) == tokens
    assert total(Rollup, "runs", dimension="status", **mine) == Trace.objects.filter(**mine).count()
    assert all(report.valid for report in verify_all().values())


def deliveries(**filters: Any) -> list[Delivery]:
    """Outbox rows in their order."""
    return list(Delivery.objects.filter(**filters).order_by("trace_id", "position"))


def claims() -> list[StoredResponse]:
    return list(StoredResponse.objects.all())
