"""What a run would cost and whether the tenant's budget would hold it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.conf import settings

from apps.governance.domain.budget import check_spend
from apps.governance.domain.forecast import WITHOUT_BUDGET, Advice, PricedCall, advise, price_call
from apps.governance.services.budgets import get_budget
from apps.governance.services.prices import price_book
from clasper.core.errors import NotFound
from clasper.core.money import NanoUSD


@dataclass(frozen=True, slots=True)
class Forecast:
    """A call's cost and the advice about it. `remaining` is that of the budget (limit less spent), None without one."""

    call: PricedCall
    remaining: NanoUSD | None
    advice: Advice


def forecast_cost(
    *, tenant_id: str, model: str, input_tokens: int, output_tokens: int, now: datetime, provider: str = ""
) -> Forecast:
    """Prices a call of `model` as a run's is priced, and asks the tenant's budget as a check does. Reserves nothing.

    `provider` is whose model a bare name means; by default the server's. Raises InvalidRequest for a name that means no
    model.
    """
    call = price_call(
        price_book(),
        model,
        default_provider=provider or settings.LLM_PROVIDER,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
    )
    try:
        budget = get_budget(tenant_id=tenant_id, now=now)
    except NotFound:
        return Forecast(call, None, WITHOUT_BUDGET)
    check = check_spend(budget.terms, budget.balance, call.cost.total)
    advice = advise(call, terms=budget.terms, check=check, allow_unpriced=budget.budget.allow_unpriced)
    return Forecast(call, budget.budget.remaining, advice)
