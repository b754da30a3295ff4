"""Budgets as people set, read and check them; how runs use the money is in `reservations`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, cast

from django.db.models import Sum
from msgspec import UNSET, UnsetType

from apps.audit.services.recording import record_audit
from apps.governance.domain.budget import (
    DEFAULT_PERIOD,
    Balance,
    HardLimit,
    Period,
    Terms,
    check_spend,
    last_instant,
    period_bounds,
    soft_warning,
    terms_of,
)
from apps.governance.models import Budget, BudgetHold, DailyUsage
from apps.governance.services.reservations import lock_current
from clasper.core.db import atomic_batch
from clasper.core.errors import NotFound
from clasper.core.money import NanoUSD
from clasper.core.schemas import Instant, Money, Resource, TenantId, about, render

BUDGET_SET = "budget.set"


class BudgetAmounts(Resource, frozen=True, kw_only=True):
    """A budget in its current period, in USD."""

    limit: Money
    spent: Money
    remaining: Annotated[Money, about("Limit less spent; negative when the limit is overrun.")]
    reserved: Annotated[Money, about("Held for runs under way; not counted as spent.")]
    period: Period
    period_start: Instant
    period_end: Annotated[Instant, about("The period's last millisecond.")]
    allow_unpriced: Annotated[bool, about("Models of unknown price may run, estimated at a ceiling price.")]


class BudgetAlerts(Resource, frozen=True, kw_only=True):
    """Where spending warns and where it is refused, in USD."""

    soft_limit: Money
    hard_limit: Annotated[Money | None, about("Null only watches.")]


class TenantBudget(Resource, frozen=True, kw_only=True):
    """A tenant's budget."""

    tenant_id: TenantId
    budget: BudgetAmounts
    alerts: BudgetAlerts

    @property
    def terms(self) -> Terms:
        return Terms(self.budget.limit, self.alerts.soft_limit, self.alerts.hard_limit, self.budget.period)

    @property
    def balance(self) -> Balance:
        return Balance(self.budget.spent, self.budget.reserved)


class BudgetCheck(Resource, frozen=True, kw_only=True):
    """Whether an amount may be spent now. Allowed: `remaining_after` and `warnings`; refused: the other three."""

    allowed: bool
    remaining_after: Annotated[
        Money | UnsetType | None, about("What the hard limit (else the limit) leaves; null without a budget.")
    ] = UNSET
    warnings: Annotated[tuple[str, ...] | UnsetType, about(example=[])] = UNSET
    remaining: Money | UnsetType = UNSET
    requested: Money | UnsetType = UNSET
    error: Literal["Exceeds hard limit"] | UnsetType = UNSET


def set_budget(
    *,
    tenant_id: str,
    actor: str,
    now: datetime,
    limit: NanoUSD,
    period: Period = DEFAULT_PERIOD,
    soft_limit: NanoUSD | None = None,
    hard_limit: HardLimit = "limit",
    allow_unpriced: bool | None = None,
) -> TenantBudget:
    """Creates or replaces the tenant's budget; terms left out take their defaults, `allow_unpriced` keeps its value.

    What was already spent in the period counts, also for a new budget or another period. Writes `budget.set` with the
    budget before and after. Raises InvalidRequest naming every error.
    """
    terms = terms_of(limit=limit, period=period, soft_limit=soft_limit, hard_limit=hard_limit)
    with atomic_batch() as batch:
        new = {"limit": terms.limit, "soft_limit": terms.soft_limit, "period": ""}
        times = dict.fromkeys(("period_start", "period_end", "updated_at"), now)
        budget, created = Budget.objects.get_or_create(tenant_id=tenant_id, defaults={**new, **times})
        before = None
        if created:
            budget.reserved = _sum_of_holds(tenant_id)
        else:
            lock_current(batch, tenant_id, now)
            budget.refresh_from_db()
            before = _audited(_view(budget, now))
        _apply(budget, terms, now)
        if allow_unpriced is not None:
            budget.allow_unpriced = allow_unpriced
        budget.save()
        view = _view(budget, now)
        details = {"before": before, "after": _audited(view)}
        record_audit(batch, tenant_id=tenant_id, event_type=BUDGET_SET, actor=actor, now=now, details=details)
    return view


def get_budget(*, tenant_id: str, now: datetime) -> TenantBudget:
    """The tenant's budget in the period of `now`. Raises NotFound when it has none."""
    budget = Budget.objects.for_tenant(tenant_id).first()
    if budget is None:
        raise NotFound("The tenant has no budget.")
    return _view(budget, now)


def check_budget(*, tenant_id: str, amount: NanoUSD, now: datetime) -> BudgetCheck:
    """Whether a run of this worst case would be let in now."""
    budget = Budget.objects.for_tenant(tenant_id).first()
    if budget is None:
        return BudgetCheck(allowed=True, remaining_after=None, warnings=())
    terms, balance = (view := _view(budget, now)).terms, view.balance
    check = check_spend(terms, balance, amount)
    if not check.allowed:
        return BudgetCheck(allowed=False, remaining=check.remaining, requested=amount, error="Exceeds hard limit")
    warnings = (soft_warning(terms),) if check.crosses_soft else ()
    return BudgetCheck(allowed=True, remaining_after=check.remaining_after, warnings=warnings)


def _apply(budget: Budget, terms: Terms, now: datetime) -> None:
    """Gives a locked budget new terms. A raised soft limit may warn again; a changed period starts with its ledger."""
    if budget.period != terms.period:
        budget.period = terms.period
        budget.period_start, budget.period_end = period_bounds(terms.period, now)
        budget.spent = _ledger(budget.tenant_id, budget.period_start, budget.period_end)
        budget.warned = False
    budget.limit, budget.soft_limit, budget.hard_limit = terms.limit, terms.soft_limit, terms.hard_limit
    budget.warned = budget.warned and budget.spent >= budget.soft_limit
    budget.updated_at = now


def _sum_of_holds(tenant_id: str) -> int:
    """What runs still hold of a budget that was deleted; the new budget must cover it."""
    held = BudgetHold.objects.filter(tenant_id=tenant_id).aggregate(amount=Sum("amount"))["amount"]
    return int(held or 0)


def _ledger(tenant_id: str, start: datetime, end: datetime) -> int:
    days = DailyUsage.objects.filter(tenant_id=tenant_id, day__gte=start.date(), day__lt=end.date())
    return int(days.aggregate(cost=Sum("cost"))["cost"] or 0)


def _view(budget: Budget, now: datetime) -> TenantBudget:
    start, end, spent = budget.period_start, budget.period_end, budget.spent
    if end <= now:
        start, end = period_bounds(budget.period, now)
        spent = 0
    amounts = BudgetAmounts(
        limit=NanoUSD(budget.limit),
        spent=NanoUSD(spent),
        remaining=NanoUSD(budget.limit - spent),
        reserved=NanoUSD(budget.reserved),
        period=cast(Period, budget.period),
        period_start=start,
        period_end=last_instant(end),
        allow_unpriced=budget.allow_unpriced,
    )
    hard_limit = None if budget.hard_limit is None else NanoUSD(budget.hard_limit)
    alerts = BudgetAlerts(soft_limit=NanoUSD(budget.soft_limit), hard_limit=hard_limit)
    return TenantBudget(tenant_id=budget.tenant_id, budget=amounts, alerts=alerts)


def _audited(view: TenantBudget) -> dict[str, Any]:
    shown = render(view)
    names = ("limit", "period", "spent", "allow_unpriced")
    return {**shown["alerts"], **{name: shown["budget"][name] for name in names}}
