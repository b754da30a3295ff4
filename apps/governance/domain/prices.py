"""What a model's tokens cost: one table for runs, forecasts, budgets and usage.

A price is *priced*, *free* or *unknown*. Prices come, in this order, from the settings (`CLASPER_PRICE_OVERRIDES`),
from the two built-in prices (`offline` and the ceiling), and from the data of the genai-prices library. Rates are
turned into integers once, so that pricing a call is a handful of integer operations with the library's exact result.

Nothing here talks to a provider, a database or the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal

import genai_prices
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, Provider, StartDateConstraint, TieredPrices

from clasper.core.model_ref import PROVIDERS
from clasper.core.money import NanoUSD
from clasper.core.usage import Usage

Status = Literal["priced", "free", "unknown"]
PriceKey = tuple[str, str]

LISTED_VERSION = f"genai-prices {genai_prices.__version__}"
SETTINGS_VERSION = "settings"

MAX_OUTPUT_TOKENS = 2**31 - 1
"""What `affordable_output` returns when output costs nothing: more than any model produces."""

MAX_CACHED_MODELS = 4096
"""Model names come from callers, so the cache is bounded; the whole list of our providers fits several times."""

MAX_MODEL_CHARS = 256
"""Longer than any model id; such a name is neither looked up nor kept."""

MAX_USD_PER_MTOK = Decimal(1_000_000)
"""A dollar a token: anything more expensive in the settings must be a mistake in the unit."""

_ALIASES = {"gemini": "google", "xai": "x-ai"}
_UNBOUNDED = frozenset({"requests_kcount", "output_reasoning_mtok"})
"""The library's price keys that a run's usage buckets cannot express; such a model counts as unknown."""


class InvalidPrices(ValueError):
    """The price overrides are wrong; `errors` names every reason."""

    def __init__(self, errors: list[str]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(errors))


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call cost, in nano-USD; `input` includes reading from and writing to the provider's cache."""

    input: NanoUSD
    output: NanoUSD

    @property
    def total(self) -> NanoUSD:
        return NanoUSD(self.input + self.output)


@dataclass(frozen=True, slots=True)
class Rates:
    """Integer rates: nano-USD per token times `scale`. They apply to prompts of more than `above` tokens."""

    above: int
    scale: int
    input: int
    cached: int
    cache_write: int
    output: int

    def worst_case(self, prompt_tokens: int, output_tokens: int) -> int:
        return self._prompt_ceiling(prompt_tokens) + -(-output_tokens * self.output // self.scale)

    def affordable_output(self, budget: int, prompt_tokens: int) -> int:
        left = budget - self._prompt_ceiling(prompt_tokens)
        if left < 0:
            return 0
        return left * self.scale // self.output if self.output else MAX_OUTPUT_TOKENS

    def _prompt_ceiling(self, tokens: int) -> int:
        return -(-tokens * max(self.input, self.cached, self.cache_write) // self.scale)


@dataclass(frozen=True, slots=True)
class Price:
    """A model's price. `version` names where it comes from and is stamped on traces; `tiers` ascend by prompt size.

    An unknown price costs nothing, which is not the truth: callers look at `status` before they trust a cost.
    """

    status: Status
    version: str
    context_window: int | None
    tiers: tuple[Rates, ...]

    def cost(self, usage: Usage) -> Cost:
        """The exact cost of one call, each side rounded half to even to the nano-dollar."""
        rates = self.tiers[0]
        if len(self.tiers) > 1:
            prompt_tokens = usage.prompt_tokens
            rates = next(tier for tier in reversed(self.tiers) if prompt_tokens > tier.above)
        prompt = usage.input * rates.input + usage.cached * rates.cached + usage.cache_write * rates.cache_write
        answer = usage.output * rates.output
        if rates.scale == 1:
            return Cost(NanoUSD(prompt), NanoUSD(answer))
        return Cost(_rounded(prompt, rates.scale), _rounded(answer, rates.scale))

    def worst_case(self, *, prompt_tokens: int, max_output_tokens: int) -> NanoUSD:
        """The most that a call within these tokens can cost: the most expensive bucket and tier, rounded up."""
        return NanoUSD(max(rates.worst_case(prompt_tokens, max_output_tokens) for rates in self.tiers))

    def affordable_output(self, *, budget: NanoUSD, prompt_tokens: int) -> int:
        """The largest number of output tokens whose worst case fits into `budget`; 0 when none does."""
        fits = min(rates.affordable_output(budget, prompt_tokens) for rates in self.tiers)
        return min(fits, MAX_OUTPUT_TOKENS)


class PriceBook:
    """Prices by provider and model.

    `overrides` is `{"provider/model": {"input", "output", "cached", "cache_write", "context_window"} | {"free": true}}`
    with prices in USD per million tokens. `today` decides between prices that change on a date; without it the last
    listed one applies. Raises InvalidPrices naming every error.
    """

    def __init__(self, overrides: Mapping[str, Any], *, today: Callable[[], date] | None = None) -> None:
        self._overrides = _parse_overrides(overrides)
        self._today = today or (lambda: date.max)
        self._providers: dict[str, Provider] = {provider.id: provider for provider in get_snapshot().providers}
        self._dated_prices = lru_cache(maxsize=MAX_CACHED_MODELS)(self._find)

    def price(self, provider: str, model: str) -> Price:
        """The price of `model` at `provider`, both as Clasper names them; prefixed and dated ids are understood."""
        if len(model) > MAX_MODEL_CHARS:
            return UNKNOWN
        dated = self._dated_prices(provider, model)
        if len(dated) == 1:
            return dated[0][1]
        today = self._today()
        return next((price for start, price in reversed(dated) if start <= today), dated[0][1])

    def find(self, model: str) -> tuple[str, Price] | None:
        """The first of PROVIDERS that lists a price for `model`, and that price; None when none does."""
        for provider in PROVIDERS:
            price = self.price(provider, model)
            if price.status != "unknown":
                return provider, price
        return None

    def ceiling(self) -> Price:
        """The price at which an unknown model is estimated for a tenant that opted in (`Budget.allow_unpriced`)."""
        return CEILING

    def _find(self, provider: str, model: str) -> tuple[tuple[date, Price], ...]:
        provider_id = _provider_id(provider)
        names = list(_names(provider_id, model.strip().lower()))
        listed = self._listed(provider_id, names)
        for name in names:
            if (provider_id, name) in self._overrides:
                window = listed[-1][1].context_window
                return ((date.min, _override_price(self._overrides[provider_id, name], window)),)
        return ((date.min, OFFLINE),) if provider_id == "offline" else listed

    def _listed(self, provider_id: str, names: list[str]) -> tuple[tuple[date, Price], ...]:
        provider = self._providers.get(provider_id)
        if provider is None:
            return ((date.min, UNKNOWN),)
        for name in names:
            model = provider.find_model(name, all_providers=list(self._providers.values()))
            if model is not None:
                return tuple((start, _listed_price(model, prices)) for start, prices in _dated_prices(model))
        return ((date.min, UNKNOWN),)


def _provider_id(provider: str) -> str:
    name = provider.strip().lower()
    return _ALIASES.get(name, name)


def _names(provider_id: str, model: str) -> Iterator[str]:
    """The model's names worth looking up: as given, then without a prefix that only repeats the provider."""
    yield model
    prefix, slash, rest = model.partition("/")
    if slash and _provider_id(prefix) == provider_id:
        yield rest


def _rounded(amount: int, scale: int) -> NanoUSD:
    whole, rest = divmod(amount, scale)
    twice = 2 * rest
    return NanoUSD(whole + 1 if twice > scale or (twice == scale and whole & 1) else whole)


def _rates(above: int, usd_per_mtok: tuple[Decimal, Decimal, Decimal, Decimal]) -> Rates:
    """Integer rates of input, cached, cache write and output: a dollar per million is 1,000 nano-USD per token."""
    digits = max(0, *(-int(usd.normalize().as_tuple().exponent) - 3 for usd in usd_per_mtok))
    scale = 10**digits
    return Rates(above, scale, *(int(usd * 1000 * scale) for usd in usd_per_mtok))


def _linear(input_usd: str, output_usd: str) -> tuple[Rates, ...]:
    paid, answer = Decimal(input_usd), Decimal(output_usd)
    return (_rates(-1, (paid, paid, paid, answer)),)


_NOTHING = _linear("0", "0")
UNKNOWN = Price("unknown", LISTED_VERSION, None, _NOTHING)
OFFLINE = Price("priced", "offline", 128_000, _linear("0.15", "0.6"))
"""The offline model costs what a small hosted one does, so that budgets move in a demonstration."""
CEILING = Price("priced", "ceiling", None, _linear("150", "600"))
"""The most expensive text model of any of our providers (o1-pro), so that no estimate is too low."""


# --- The library's data ----------------------------------------------------------------------------------------------


def _dated_prices(model: ModelInfo) -> list[tuple[date, ModelPrice | None]]:
    """The model's prices with the day each begins, ascending; None for one that changes with the hour of the day."""
    if isinstance(model.prices, ModelPrice):
        return [(date.min, model.prices)]
    dated: list[tuple[date, ModelPrice | None]] = []
    for entry in model.prices:
        if entry.constraint is None:
            dated.append((date.min, entry.prices))
        elif isinstance(entry.constraint, StartDateConstraint):
            dated.append((entry.constraint.start_date, entry.prices))
        else:
            return [(date.min, None)]
    return sorted(dated, key=lambda start: start[0]) or [(date.min, None)]


def _listed_price(model: ModelInfo, prices: ModelPrice | None) -> Price:
    window = model.context_window
    stated = {key: value for key, value in vars(prices).items() if value is not None} if prices is not None else {}
    paid, answer = stated.get("input_mtok"), stated.get("output_mtok")
    if paid is None or answer is None or _UNBOUNDED & stated.keys():
        free = prices is not None and not stated and _is_free(model)
        return Price("free" if free else "unknown", LISTED_VERSION, window, _NOTHING)
    columns = (paid, stated.get("cache_read_mtok", paid), stated.get("cache_write_mtok", paid), answer)
    starts = {tier.start for column in columns if isinstance(column, TieredPrices) for tier in column.tiers}
    tiers = tuple(
        _rates(above, (_at(columns[0], above), _at(columns[1], above), _at(columns[2], above), _at(columns[3], above)))
        for above in (-1, *sorted(starts))
    )
    return Price("priced" if any(_charges(tier) for tier in tiers) else "free", LISTED_VERSION, window, tiers)


def _at(column: Decimal | TieredPrices, above: int) -> Decimal:
    """The rate for prompts of just more than `above` tokens."""
    if not isinstance(column, TieredPrices):
        return column
    return next((tier.price for tier in reversed(column.tiers) if tier.start <= above), column.base)


def _charges(rates: Rates) -> bool:
    return bool(rates.input or rates.cached or rates.cache_write or rates.output)


def _is_free(model: ModelInfo) -> bool:
    """Whether an empty price list means free of charge rather than not known."""
    return model.id.endswith(":free") or "free of charge" in (model.price_comments or "").lower()


# --- The settings' overrides -----------------------------------------------------------------------------------------

_PRICE_FIELDS = ("input", "cached", "cache_write", "output")
_FIELDS = (*_PRICE_FIELDS, "context_window", "free")


def _parse_overrides(raw: Mapping[str, Any]) -> dict[PriceKey, Mapping[str, Any]]:
    if not isinstance(raw, Mapping):
        raise InvalidPrices(["expected an object of provider/model names"])
    errors: list[str] = []
    overrides: dict[PriceKey, Mapping[str, Any]] = {}
    for name, fields in raw.items():
        provider, _, model = str(name).partition("/")
        if not provider.strip() or not model.strip():
            errors.append(f"{name!r}: must be named provider/model")
        elif not isinstance(fields, Mapping):
            errors.append(f"{name}: expected an object")
        else:
            errors += [f"{name}: {error}" for error in _override_errors(fields)]
            overrides[_provider_id(provider), model.strip().lower()] = fields
    if errors:
        raise InvalidPrices(errors)
    return overrides


def _override_errors(fields: Mapping[str, Any]) -> Iterator[str]:
    for field in fields:
        if field not in _FIELDS:
            yield f"{field} is not one of {', '.join(_FIELDS)}"
    for field in _PRICE_FIELDS:
        if field in fields and not _is_price(fields[field]):
            yield f"{field} must be a number of USD per million tokens from 0 to {MAX_USD_PER_MTOK:,}"
    window = fields.get("context_window", 1)
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        yield "context_window must be a whole number of tokens"
    if "free" in fields:
        if fields["free"] is not True:
            yield "free can only be true"
        if any(field in fields for field in _PRICE_FIELDS):
            yield "free cannot be combined with a price"
    else:
        yield from (f"{field} is missing" for field in ("input", "output") if field not in fields)


def _is_price(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    amount = Decimal(str(value))
    return amount.is_finite() and 0 <= amount <= MAX_USD_PER_MTOK


def _override_price(fields: Mapping[str, Any], listed_window: int | None) -> Price:
    window = fields.get("context_window", listed_window)
    if "free" in fields:
        return Price("free", SETTINGS_VERSION, window, _NOTHING)
    paid, answer = Decimal(str(fields["input"])), Decimal(str(fields["output"]))
    cached, written = (Decimal(str(fields.get(field, paid))) for field in ("cached", "cache_write"))
    rates = _rates(-1, (paid, cached, written, answer))
    return Price("priced" if _charges(rates) else "free", SETTINGS_VERSION, window, (rates,))
