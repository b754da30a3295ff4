"""Prices equal the library's to the nano-dollar; holds never fall short; unknown is neither free nor cheap."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Any

import genai_prices
import pytest
from django.core.exceptions import ImproperlyConfigured
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import StartDateConstraint
from hypothesis import given
from hypothesis import strategies as st

from apps.governance.domain.prices import CEILING, MAX_OUTPUT_TOKENS, InvalidPrices, Price, PriceBook
from apps.governance.services.prices import price_book
from clasper.core.money import NanoUSD, from_usd
from clasper.core.usage import Usage

TODAY = date(2026, 2, 10)
BOOK = PriceBook({}, today=lambda: TODAY)
OURS = ("openai", "anthropic", "google", "x-ai", "groq", "mistral", "openrouter")
PRICED = [
    (provider.id, model.id)
    for provider in get_snapshot().providers
    for model in provider.models
    if provider.id in OURS and BOOK.price(provider.id, model.id).status == "priced"
]

tokens = st.one_of(st.integers(0, 5_000), st.integers(0, 2_000_000))
usages = st.builds(Usage, input=tokens, cached=tokens, cache_write=tokens, output=tokens)


def library_cost(provider: str, model: str, usage: Usage) -> genai_prices.types.PriceCalculation:
    return genai_prices.calc_price(
        genai_prices.Usage(
            input_tokens=usage.prompt_tokens,
            cache_read_tokens=usage.cached,
            cache_write_tokens=usage.cache_write,
            output_tokens=usage.output,
        ),
        model,
        provider_id=provider,
        genai_request_timestamp=datetime.combine(TODAY, time(12), UTC),
    )


def test_most_listed_models_are_priced() -> None:
    assert len(PRICED) > 900
    assert sum(len(BOOK.price(*each).tiers) > 1 for each in PRICED) > 50


@given(st.sampled_from(PRICED), usages)
def test_a_cost_is_the_librarys_to_the_nano_dollar(model: tuple[str, str], usage: Usage) -> None:
    cost, listed = BOOK.price(*model).cost(usage), library_cost(*model, usage)
    assert cost.input == from_usd(listed.input_price)
    assert cost.output == from_usd(listed.output_price)
    assert cost.total == cost.input + cost.output


@given(st.sampled_from([*PRICED, ("offline", "any"), ("x", "unknown")]), usages, tokens, tokens)
def test_the_worst_case_is_never_below_the_cost(
    model: tuple[str, str], usage: Usage, spare_prompt: int, spare_output: int
) -> None:
    price = BOOK.price(*model)
    worst = price.worst_case(
        prompt_tokens=usage.prompt_tokens + spare_prompt, max_output_tokens=usage.output + spare_output
    )
    assert worst >= price.cost(usage).total


@given(st.sampled_from(PRICED), st.integers(0, 10**10), tokens)
def test_the_affordable_output_is_the_largest_that_fits(model: tuple[str, str], budget: int, prompt: int) -> None:
    price = BOOK.price(*model)
    output = price.affordable_output(budget=NanoUSD(budget), prompt_tokens=prompt)
    if output:
        assert price.worst_case(prompt_tokens=prompt, max_output_tokens=output) <= budget
    if output < MAX_OUTPUT_TOKENS:
        assert price.worst_case(prompt_tokens=prompt, max_output_tokens=output + 1) > budget


def test_the_documented_examples() -> None:
    mini = BOOK.price("openai", "gpt-4o-mini").cost(Usage(input=1250, output=150))
    assert (mini.input, mini.output) == (from_usd("0.0001875"), from_usd("0.00009"))
    assert BOOK.price("openai", "gpt-4").cost(Usage(input=5000, output=1000)).total == from_usd("0.21")


@pytest.mark.parametrize(
    ("provider", "model", "same_as"),
    [
        ("openai", "openai/gpt-4o-mini", ("openai", "gpt-4o-mini")),
        ("OpenAI", " GPT-4o-Mini ", ("openai", "gpt-4o-mini")),
        ("openai", "gpt-4o-mini-2024-07-18", ("openai", "gpt-4o-mini")),
        ("gemini", "gemini-2.0-flash", ("google", "gemini-2.0-flash")),
        ("gemini", "google/gemini-2.0-flash", ("google", "gemini-2.0-flash")),
        ("gemini", "models/gemini-2.0-flash", ("google", "gemini-2.0-flash")),
        ("xai", "grok-4", ("x-ai", "grok-4")),
        ("xai", "xai/grok-4", ("x-ai", "grok-4")),
        ("openrouter", "openrouter/openai/gpt-4o-mini", ("openrouter", "openai/gpt-4o-mini")),
    ],
)
def test_names_are_normalised(provider: str, model: str, same_as: tuple[str, str]) -> None:
    price = BOOK.price(provider, model)
    assert price.status == "priced"
    assert price == BOOK.price(*same_as)
    assert price.version == f"genai-prices {genai_prices.__version__}"


@pytest.mark.parametrize(
    ("provider", "model", "status"),
    [
        ("openai", "llama3.2:3b", "unknown"),
        ("openai", "anthropic/claude-sonnet-4-20250514", "unknown"),
        ("openai", "", "unknown"),
        ("openai", "x" * 100_000, "unknown"),
        ("nobody", "gpt-4o-mini", "unknown"),
        ("openai", "text-embedding-3-small", "unknown"),
        ("openrouter", "perplexity/sonar-deep-research", "unknown"),
        ("deepseek", "deepseek-chat", "unknown"),
        ("openrouter", "deepseek/deepseek-r1:free", "free"),
        ("gemini", "gemma-4-31b-it", "free"),
        ("offline", "anything", "priced"),
    ],
)
def test_each_price_is_priced_free_or_unknown(provider: str, model: str, status: str) -> None:
    price = BOOK.price(provider, model)
    assert price.status == status
    if status != "priced":
        assert price.cost(Usage(1000, 1000, 1000, 1000)).total == 0
        assert price.affordable_output(budget=NanoUSD(0), prompt_tokens=1000) == MAX_OUTPUT_TOKENS


def test_prices_change_on_their_day() -> None:
    dated = [
        (model.id, each.constraint.start_date)
        for provider in get_snapshot().providers
        if provider.id == "google"
        for model in provider.models
        if isinstance(model.prices, list) and len(model.prices) == 2
        for each in model.prices
        if isinstance(each.constraint, StartDateConstraint)
    ]
    name, start = next((name, start) for name, start in dated if BOOK.price("google", name).status == "priced")
    day = start
    book = PriceBook({}, today=lambda: day)
    after = book.price("google", name)
    day = date.fromordinal(start.toordinal() - 1)
    assert book.price("google", name) != after
    assert PriceBook({}).price("google", name) == after


def test_a_cache_write_that_costs_more_than_input_is_held() -> None:
    price = BOOK.price("anthropic", "claude-sonnet-4-20250514")
    assert price.worst_case(prompt_tokens=1000, max_output_tokens=0) == from_usd("0.00375")
    assert price.context_window == 200_000


def test_a_tier_counts_the_whole_prompt() -> None:
    price = BOOK.price("gemini", "gemini-2.5-pro")
    assert price.cost(Usage(input=200_000)).total == from_usd("0.25")
    assert price.cost(Usage(input=100_001, cached=100_000)).input == from_usd("0.2500025") + from_usd("0.025")
    assert price.worst_case(prompt_tokens=10, max_output_tokens=10) == from_usd("0.000175")


def test_the_ceiling_is_the_price_of_the_most_expensive_listed_model() -> None:
    assert BOOK.ceiling() is CEILING
    hold = {"prompt_tokens": 10**6, "max_output_tokens": 10**6}
    assert CEILING.worst_case(**hold) == max(BOOK.price(*each).worst_case(**hold) for each in PRICED)


def test_the_offline_model_costs_something() -> None:
    price = BOOK.price("offline", "anything")
    assert (price.version, price.context_window) == ("offline", 128_000)
    assert price.cost(Usage(input=10**6, output=10**6)).total == from_usd("0.75")


OVERRIDES = {
    "openai/llama3": {"input": 0.1, "cached": 0.0333, "output": 0.2, "context_window": 8192},
    "openai/gpt-4o-mini": {"input": 1, "cache_write": 2, "output": 4},
    "openai/local": {"free": True, "context_window": 4096},
    "openrouter/openai/gpt-4o": {"input": 0, "output": 0},
    "gemini/own": {"input": 1, "output": 1},
}


def test_overrides_come_first() -> None:
    book = PriceBook(OVERRIDES)
    llama = book.price("openai", "llama3")
    assert (llama.status, llama.version, llama.context_window) == ("priced", "settings", 8192)
    assert llama.cost(Usage(input=3, cached=3, output=1)).input == 300 + 100
    mini = book.price("openai", "openai/gpt-4o-mini")
    assert mini.context_window == 128_000
    assert mini.cost(Usage(input=1, cached=1, cache_write=1, output=1)).total == 1000 + 1000 + 2000 + 4000
    assert book.price("openai", "local").status == "free"
    assert book.price("openrouter", "openai/gpt-4o").status == "free"
    assert book.price("google", "own").status == "priced"
    assert book.price("openai", "gpt-4").version != "settings"


def test_all_errors_of_the_overrides_are_named_at_once() -> None:
    bad = {
        "nameless": {"input": 1, "output": 1},
        "openai/a": {"input": -1, "output": "1", "colour": 3},
        "openai/b": {"input": True},
        "openai/c": {"free": True, "input": 1},
        "openai/d": {"free": False},
        "openai/e": [1],
        "openai/f": {"input": float("nan"), "output": float("inf"), "context_window": 0},
    }
    with pytest.raises(InvalidPrices) as raised:
        PriceBook(bad)
    text = "\n".join(raised.value.errors)
    assert len(raised.value.errors) == 12, text
    for name in bad:
        assert name in text


def test_the_settings_price_book(settings: Any) -> None:
    settings.CLASPER_PRICE_OVERRIDES = OVERRIDES
    price_book.cache_clear()
    try:
        assert price_book() is price_book()
        assert price_book().price("openai", "llama3").version == "settings"
        settings.CLASPER_PRICE_OVERRIDES = {"openai/x": {}}
        price_book.cache_clear()
        with pytest.raises(ImproperlyConfigured, match="CLASPER_PRICE_OVERRIDES"):
            price_book()
    finally:
        price_book.cache_clear()


def test_callers_cannot_grow_the_cache_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.governance.domain.prices.MAX_CACHED_MODELS", 3)
    book = PriceBook({})
    prices: list[Price] = [book.price("openai", f"made-up-{number}") for number in range(10)]
    assert {price.status for price in prices} == {"unknown"}
    assert book._dated_prices.cache_info().currsize == 3


def test_rounding_is_half_to_even() -> None:
    price = PriceBook({"p/m": {"input": 0.0005, "output": 0.0015}}).price("p", "m")
    assert [price.cost(Usage(input=count)).input for count in range(1, 6)] == [0, 1, 2, 2, 2]
    assert price.worst_case(prompt_tokens=1, max_output_tokens=1) == 1 + 2
