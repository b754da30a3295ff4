"""The rules of a forecast: which price a model's name means, what a call would cost, and what to advise about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from apps.governance.domain.budget import SpendCheck, Terms, soft_warning
from apps.governance.domain.prices import Cost, Price, PriceBook
from clasper.core.errors import UnpricedModel
from clasper.core.model_ref import OFFLINE, ModelRef, parse_model_ref
from clasper.core.money import NanoUSD, usd
from clasper.core.usage import Usage

Recommendation = Literal["ok", "warn", "block"]

MAX_TOKENS = 100_000_000
"""Of either kind: far more than any model takes, and still within MAX_AMOUNT at the highest possible price."""


@dataclass(frozen=True, slots=True)
class PricedCall:
    """What a call would cost. `estimated` means that the model's price is unknown and the ceiling price was taken."""

    ref: ModelRef
    price_version: str
    cost: Cost
    estimated: bool


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do about a call: `ok`, `warn` (it reaches the soft limit) or `block` (the run would be refused).

    `would_exceed` says that the hard limit does not cover it; `reason` is a sentence, empty when there is no objection.
    """

    would_exceed: bool
    recommendation: Recommendation
    reason: str


WITHOUT_BUDGET = Advice(False, "ok", "")
"""Nothing is limited, not even models of unknown price."""


def price_call(
    prices: PriceBook, model: str, *, default_provider: str, input_tokens: int, output_tokens: int
) -> PricedCall:
    """What a call of `model` (`provider/model` or bare) costs with these tokens, none of them cached.

    Raises InvalidRequest for a name that means no model.
    """
    ref, price = _priced(prices, model, default_provider)
    unknown = price.status == "unknown"
    if unknown:
        price = prices.ceiling()
    cost = price.cost(Usage(input=input_tokens, output=output_tokens))
    return PricedCall(ref, price.version, cost, unknown)


def advise(call: PricedCall, *, terms: Terms, check: SpendCheck, allow_unpriced: bool) -> Advice:
    """The advice for a tenant with a budget; `check` says what the call's whole cost would do to the budget."""
    refused = not check.allowed
    if call.estimated and not allow_unpriced:
        return Advice(refused, "block", UnpricedModel.default_message)
    if refused:
        return Advice(True, "block", _over_limit(call.cost.total, check.remaining))
    if check.crosses_soft:
        return Advice(False, "warn", soft_warning(terms))
    return Advice(False, "ok", "")


def _priced(prices: PriceBook, model: str, default_provider: str) -> tuple[ModelRef, Price]:
    """The model and its price. A bare name that the default provider does not list is looked for at the others; the
    offline provider takes any name, so it lists none."""
    ref = parse_model_ref(model, default_provider)
    price = prices.price(ref.provider, ref.model)
    is_bare = ref.model == model.strip()
    if is_bare and (price.status == "unknown" or ref.provider == OFFLINE):
        found = prices.find(ref.model)
        if found is not None:
            provider, price = found
            return ModelRef(provider, ref.model), price
    return ref, price


def _over_limit(cost: NanoUSD, remaining: NanoUSD) -> str:
    left = f"only {_dollars(remaining)}" if remaining > 0 else "nothing"
    return f"Costs {_dollars(cost)} where the hard limit leaves {left}."


def _dollars(amount: NanoUSD) -> str:
    return f"{usd(amount):.9f}".rstrip("0").rstrip(".") + " USD"
