"""What a run would cost, and whether the tenant's budget would cover it."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Annotated

from django.conf import settings
from msgspec import UNSET, UnsetType

from apps.governance.domain.budget import check_spend
from apps.governance.domain.forecast import WITHOUT_BUDGET, Recommendation, advise, price_call
from apps.governance.services.budgets import get_budget
from apps.governance.services.prices import price_book
from clasper.core.errors import NotFound
from clasper.core.schemas import Money, Resource, about


class Forecast(Resource, frozen=True, kw_only=True, rename="camel"):
    """What a call would cost, in USD, and what the budget says to it."""

    estimated_cost: Money
    budget_remaining: Annotated[Money | None, about("Limit less spent; null without a budget.")]
    would_exceed_budget: Annotated[
        bool, about("The hard limit leaves less: `POST /budget/check` would return `allowed: false`.", example=False)
    ]
    recommendation: Annotated[
        Recommendation, about("`warn`: reaches the soft limit. `block`: the run would be refused.")
    ]
    input_cost: Money
    output_cost: Money
    model: Annotated[str, about("The model that was priced, as `provider/model`.", example="openai/gpt-4o")]
    price_version: Annotated[str, about("Where the price comes from.", example="genai-prices 0.2.3")]
    estimated: Annotated[bool, about("The price is unknown; the ceiling price was taken.", example=False)]
    reason: Annotated[str | UnsetType, about("Present unless the recommendation is `ok`.")] = UNSET


def forecast_cost(
    *, tenant_id: str, model: str, input_tokens: int, output_tokens: int, now: datetime, provider: str = ""
) -> Forecast:
    """Prices a call of `model` as a run's is priced, and checks it against the tenant's budget. Reserves nothing.

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
    advice, remaining = WITHOUT_BUDGET, None
    with suppress(NotFound):
        budget = get_budget(tenant_id=tenant_id, now=now)
        check = check_spend(budget.terms, budget.balance, call.cost.total)
        advice = advise(call, terms=budget.terms, check=check, allow_unpriced=budget.budget.allow_unpriced)
        remaining = budget.budget.remaining
    return Forecast(
        estimated_cost=call.cost.total,
        budget_remaining=remaining,
        would_exceed_budget=advice.would_exceed,
        recommendation=advice.recommendation,
        input_cost=call.cost.input,
        output_cost=call.cost.output,
        model=str(call.ref),
        price_version=call.price_version,
        estimated=call.estimated,
        reason=advice.reason or UNSET,
    )
