"""Budgets as people set, read and ask them; what runs do with the money is `reservations`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Sum

from apps.audit.services.recording import record_audit
from apps.governance.domain.budget import (
    DEFAULT_PERIOD,
    Balance,
    HardLimit,
    Terms,
    amount_errors,
    check_spend,
    period_bounds,
    soft_warning,
    terms_of,
)
from apps.governance.models import Budget, BudgetHold, DailyUsage
from apps.governance.services.reservations import lock_current
from clasper.core.db import atomic_batch
from clasper.core.errors import InvalidRequest, NotFound
from clasper.core.money import NanoUSD, usd

BUDGET_SET = "budget.set"


@dataclass(frozen=True, slots=True)
class BudgetView:
    """A tenant's budget in its current period; amounts in nano-USD, `period_end` exclusive."""

    tenant_id: str
    limit: NanoUSD
    soft_limit: NanoUSD
    hard_limit: NanoUSD | None
    period: str
    period_start: datetime
    period_end: datetime
    spent: NanoUSD
    reserved: NanoUSD
    allow_unpriced: bool

    @property
    def remaining(self) -> NanoUSD:
        """What the limit leaves; holds, which come and go, are not counted. Negative when the limit is overrun."""
        return NanoUSD(self.limit - self.spent)

    @property
    def terms(self) -> Terms:
        return Terms(self.limit, self.soft_limit, self.hard_limit, self.period)

    @property
    def balance(self) -> Balance:
        return Balance(self.spent, self.reserved)


@dataclass(frozen=True, slots=True)
class BudgetVerdict:
    """Whether an amount may be spent now. The remainders are None for a tenant without a budget."""

    allowed: bool
    requested: NanoUSD
    remaining: NanoUSD | None = None
    remaining_after: NanoUSD | None = None
    warnings: tuple[str, ...] = ()


def set_budget(
    *,
    tenant_id: str,
    actor: str,
    now: datetime,
    limit: NanoUSD,
    period: str = DEFAULT_PERIOD,
    soft_limit: NanoUSD | None = None,
    hard_limit: HardLimit = "limit",
    allow_unpriced: bool | None = None,
) -> BudgetView:
    """Creates or replaces the tenant's budget; what is left out takes its default, `allow_unpriced` its last value.

    What was already spent in the period counts, also for a new budget or another period. Writes `budget.set` with the
    budget before and after. Raises InvalidRequest naming every error.
    """
    terms = terms_of(limit=limit, period=period, soft_limit=soft_limit, hard_limit=hard_limit)
    with atomic_batch() as batch:
        budget, created = Budget.objects.get_or_create(
            tenant_id=tenant_id,
            defaults={
                "limit": terms.limit,
                "soft_limit": terms.soft_limit,
                "period": "",
                "period_start": now,
                "period_end": now,
                "updated_at": now,
            },
        )
        before = None
        if created:
            budget.reserved = _sum_of_holds(tenant_id)
        else:
            lock_current(batch, tenant_id, now)
            budget.refresh_from_db()
            before = _terms_json(_view(budget, now))
        _apply(budget, terms, now)
        if allow_unpriced is not None:
            budget.allow_unpriced = allow_unpriced
        budget.save()
        view = _view(budget, now)
        record_audit(
            batch,
            tenant_id=tenant_id,
            event_type=BUDGET_SET,
            actor=actor,
            now=now,
            details={"before": before, "after": _terms_json(view)},
        )
    return view


def get_budget(*, tenant_id: str, now: datetime) -> BudgetView:
    """The tenant's budget in the period of `now`. Raises NotFound when it has none."""
    budget = Budget.objects.for_tenant(tenant_id).first()
    if budget is None:
        raise NotFound("The tenant has no budget.")
    return _view(budget, now)


def check_budget(*, tenant_id: str, amount: NanoUSD, now: datetime) -> BudgetVerdict:
    """Whether a run of this worst case would be let in now. Raises InvalidRequest for an impossible amount."""
    if errors := amount_errors(amount):
        raise InvalidRequest(field_errors={"amount": errors})
    budget = Budget.objects.for_tenant(tenant_id).first()
    if budget is None:
        return BudgetVerdict(allowed=True, requested=amount)
    view = _view(budget, now)
    check = check_spend(view.terms, view.balance, amount)
    return BudgetVerdict(
        allowed=check.allowed,
        requested=amount,
        remaining=check.remaining,
        remaining_after=check.remaining_after,
        warnings=(soft_warning(view.terms),) if check.allowed and check.crosses_soft else (),
    )


def _apply(budget: Budget, terms: Terms, now: datetime) -> None:
    """Puts new terms on a locked budget. A raised soft limit may warn again; a changed period opens with its ledger."""
    if budget.period != terms.period:
        budget.period = terms.period
        budget.period_start, budget.period_end = period_bounds(terms.period, now)
        budget.spent = _ledger(budget.tenant_id, budget.period_start, budget.period_end)
        budget.warned = False
    budget.limit, budget.soft_limit, budget.hard_limit = terms.limit, terms.soft_limit, terms.hard_limit
    budget.warned = budget.warned and budget.spent >= budget.soft_limit
    budget.updated_at = now


def _sum_of_holds(tenant_id: str) -> int:
    """Runs may still hold money of a budget that was deleted; the new one answers for it."""
    held = BudgetHold.objects.filter(tenant_id=tenant_id).aggregate(amount=Sum("amount"))["amount"]
    return int(held or 0)


def _ledger(tenant_id: str, start: datetime, end: datetime) -> int:
    days = DailyUsage.objects.filter(tenant_id=tenant_id, day__gte=start.date(), day__lt=end.date())
    return int(days.aggregate(cost=Sum("cost"))["cost"] or 0)


def _view(budget: Budget, now: datetime) -> BudgetView:
    start, end, spent = budget.period_start, budget.period_end, budget.spent
    if end <= now:
        start, end = period_bounds(budget.period, now)
        spent = 0
    return BudgetView(
        tenant_id=budget.tenant_id,
        limit=NanoUSD(budget.limit),
        soft_limit=NanoUSD(budget.soft_limit),
        hard_limit=None if budget.hard_limit is None else NanoUSD(budget.hard_limit),
        period=budget.period,
        period_start=start,
        period_end=end,
        spent=NanoUSD(spent),
        reserved=NanoUSD(budget.reserved),
        allow_unpriced=budget.allow_unpriced,
    )


def _terms_json(view: BudgetView) -> dict[str, Any]:
    return {
        "limit": usd(view.limit),
        "soft_limit": usd(view.soft_limit),
        "hard_limit": None if view.hard_limit is None else usd(view.hard_limit),
        "period": view.period,
        "spent": usd(view.spent),
        "allow_unpriced": view.allow_unpriced,
    }
