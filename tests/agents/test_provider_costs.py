"""What runs cost at every provider, computed by hand from the listed prices; everybody says the same nano-dollars."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import genai_prices
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.governance.services.prices import price_book
from clasper.core.model_ref import PROVIDERS
from clasper.core.usage import Usage
from fakes.llm import Behaviour, error, raw, reply, tool_calls
from tests.agents.backend import Backend
from tests.agents.hosts import ENDPOINTS, MODELS, ask, assert_costs, attempts, hosts, model_steps
from tests.agents.ledger import assert_balanced, nano
from tests.world import Server

USAGE = Usage(input=100, output=20)
LISTED = f"genai-prices {genai_prices.__version__}"
HAIKU = "claude-haiku-4-5"


@dataclass(frozen=True)
class Golden:
    """An answer counted in the provider's own words, and what it costs in nano-USD."""

    id: str
    provider: str
    model: str
    usage: dict[str, Any]
    cost: int
    tokens: tuple[int, int]
    free: bool = False


def chat(prompt: int, completion: int, *, total: int = 0, **details: int) -> dict[str, Any]:
    """Counts of a chat-completions host; `details` are cached_tokens, cache_write_tokens and reasoning_tokens."""
    thinking = details.pop("reasoning_tokens", 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total or prompt + completion,
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": thinking},
    }


GOLDENS = [
    # 0.15 in, 0.075 cached, 0.60 out: 400 x 150 + 600 x 75 + 50 x 600
    Golden("openai", "openai", "gpt-4o-mini", chat(1000, 50, cached_tokens=600), 135_000, (1000, 50)),
    # 1.10 in, 4.40 out; thinking is a part of the completion: 200 x 1100 + 500 x 4400
    Golden("openai thinks", "openai", "o4-mini", chat(200, 500, reasoning_tokens=400), 2_420_000, (200, 500)),
    # 1.00 in, 0.10 cached, 1.25 cache write, 5.00 out: 100 x 1000 + 2000 x 100 + 300 x 1250 + 40 x 5000
    Golden(
        "anthropic reads and writes its cache",
        "anthropic",
        HAIKU,
        {
            "input_tokens": 100,
            "cache_read_input_tokens": 2000,
            "cache_creation_input_tokens": 300,
            "output_tokens": 40,
        },
        875_000,
        (2400, 40),
    ),
    # 0.30 in, 0.03 cached, 2.50 out; thoughts stand beside the candidates: 600 x 300 + 400 x 30 + (20 + 80) x 2500
    Golden(
        "gemini thinks",
        "gemini",
        "gemini-2.5-flash",
        {
            "promptTokenCount": 1000,
            "cachedContentTokenCount": 400,
            "candidatesTokenCount": 20,
            "thoughtsTokenCount": 80,
            "totalTokenCount": 1100,
        },
        442_000,
        (1000, 100),
    ),
    # Above 200,000 tokens of prompt 2.50 in, 0.25 cached, 15.00 out: 200,000 x 2500 + 50,000 x 250 + 100 x 15,000
    Golden(
        "gemini above its tier",
        "gemini",
        "gemini-2.5-pro",
        {
            "promptTokenCount": 250_000,
            "cachedContentTokenCount": 50_000,
            "candidatesTokenCount": 100,
            "totalTokenCount": 250_100,
        },
        514_000_000,
        (250_000, 100),
    ),
    # 0.30 in, 0.075 cached, 0.50 out; 80 thoughts stand in the total only: 300 x 300 + 200 x 75 + (10 + 80) x 500
    Golden(
        "xai thinks",
        "xai",
        "grok-3-mini",
        chat(500, 10, total=590, cached_tokens=200, reasoning_tokens=80),
        150_000,
        (500, 90),
    ),
    # 0.05 in, no price for cached ones, 0.08 out: 1000 x 50 + 100 x 80
    Golden(
        "groq",
        "groq",
        "llama-3.1-8b-instant",
        {**chat(1000, 100, cached_tokens=300), "queue_time": 0.02, "total_time": 0.3},
        58_000,
        (1000, 100),
    ),
    # 0.15 in, 0.015 cached, 0.60 out: 200 x 150 + 100 x 15 + 30 x 600
    Golden("mistral", "mistral", "mistral-small-2603", chat(300, 30, cached_tokens=100), 49_500, (300, 30)),
    # 0.15 in, 0.075 cached, 0.60 out, whatever the host says of its own cost: 500 x 150 + 500 x 75 + 10 x 600
    Golden(
        "openrouter",
        "openrouter",
        "openai/gpt-4o-mini",
        {**chat(1000, 10, cached_tokens=500), "cost": 0.5},
        118_500,
        (1000, 10),
    ),
    # 1.00 in, 0.10 cached, 1.25 cache write, 5.00 out: 100 x 1000 + 1000 x 100 + 400 x 1250 + 20 x 5000
    Golden(
        "openrouter writes a cache",
        "openrouter",
        "anthropic/claude-haiku-4.5",
        chat(1500, 20, cached_tokens=1000, cache_write_tokens=400),
        800_000,
        (1500, 20),
    ),
    # 0.10 in, 0.0833... cache write, 0.40 out: 6 x 100 + 7 x 83.33... = 1183.33..., rounded, and 1 x 400
    Golden(
        "a price with fractions of a nano-dollar",
        "openrouter",
        "google/gemini-2.5-flash-lite",
        chat(13, 1, cache_write_tokens=7),
        1_583,
        (13, 1),
    ),
    Golden("free of charge", "openrouter", "qwen/qwen3-coder:free", chat(1000, 50), 0, (1000, 50), free=True),
]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("case", GOLDENS, ids=lambda case: case.id)
def test_a_golden_cost(server: Server, backend: Backend, settings: Any, case: Golden, endpoint: str) -> None:
    with hosts(settings, case.provider) as found:
        server.set_budget(limit=100)
        found[case.provider].script(reply("Fine.", usage=case.usage))
        outcome = ask(server, endpoint, metadata={"model": f"{case.provider}/{case.model}"})
    assert outcome.status == 200, outcome
    prompt, output = case.tokens
    assert outcome.body["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
    }
    trace = server.trace(outcome.trace_id)
    assert (trace["cost"]["priceVersion"], trace["estimated"]) == (LISTED, False)
    (step,) = model_steps(server, outcome.trace_id)
    assert (step["prompt_tokens"], step["completion_tokens"]) == case.tokens
    assert (case.cost == 0) is case.free
    assert_costs(server, outcome.trace_id, case.cost, response=outcome.body)


@given(
    provider=st.sampled_from(PROVIDERS),
    usage=st.builds(Usage, *(st.integers(0, 100_000) for _ in range(4))),
)
def test_the_prices_of_these_tests_are_the_listed_ones(provider: str, usage: Usage) -> None:
    model = MODELS[provider]
    assert price_book().price(provider, model.name).cost(usage).total == model.cost(usage)


# --- Several attempts ------------------------------------------------------------------------------------------------

COUNTS = {"prompt_tokens": 200, "completion_tokens": 40, "total_tokens": 240}


def refused_in_a_200(usage: dict[str, Any]) -> Behaviour:
    """How OpenRouter tells that the model's host failed after it had begun."""
    return raw(json.dumps({"error": {"code": 502, "message": "Upstream error"}, "usage": usage}).encode())


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_failed_attempt_that_was_counted_is_paid_beside_its_retry(
    server: Server, backend: Backend, settings: Any, endpoint: str
) -> None:
    with hosts(settings, "openrouter") as found:
        server.set_budget(limit=1)
        found["openrouter"].script(refused_in_a_200(COUNTS), reply("Fine.", usage=USAGE))
        outcome = ask(server, endpoint)
    assert outcome.status == 200, outcome
    # 200 x 150 + 40 x 600, and 100 x 150 + 20 x 600
    steps = model_steps(server, outcome.trace_id)
    assert [(step["code"], nano(step["cost"])) for step in steps] == [("unavailable", 54_000), ("stop", 27_000)]
    assert outcome.body["usage"] == {"prompt_tokens": 300, "completion_tokens": 60, "total_tokens": 360}
    assert_costs(server, outcome.trace_id, 81_000, response=outcome.body)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_model_is_paid_at_its_own_price(server: Server, backend: Backend, settings: Any, endpoint: str) -> None:
    """Two rounds: the first model wants a tool and fails in the second, thrice and counted; the fallback answers."""
    backend.tools["orders:lookup"] = lambda arguments: {"status": "shipped"}
    with hosts(settings, "openrouter", "anthropic") as found:
        settings.LLM_MODEL_FALLBACK = f"anthropic/{HAIKU}"
        server.set_budget(limit=1)
        found["openrouter"].script(tool_calls(("orders_lookup", "{}"), usage=USAGE), *(refused_in_a_200(COUNTS),) * 3)
        found["anthropic"].script(reply("Fine.", usage=USAGE))
        outcome = ask(server, endpoint)
    assert outcome.status == 200, outcome
    # 100 x 150 + 20 x 600; three times 200 x 150 + 40 x 600; 100 x 1000 + 20 x 5000
    costs = [nano(step["cost"]) for step in model_steps(server, outcome.trace_id)]
    assert costs == [27_000, 54_000, 54_000, 54_000, 200_000]
    trace = server.trace(outcome.trace_id)
    assert (trace["provider"], trace["model"], trace["cost"]["priceVersion"]) == ("anthropic", HAIKU, LISTED)
    assert_costs(server, outcome.trace_id, 389_000, response=outcome.body)


@pytest.fixture
def house_prices(settings: Any) -> Iterator[None]:
    settings.CLASPER_PRICE_OVERRIDES = {"groq/house-blend": {"input": 2, "output": 3}}
    price_book.cache_clear()
    yield
    price_book.cache_clear()


def test_a_price_of_the_settings_is_named_as_such(
    server: Server, backend: Backend, house_prices: None, settings: Any
) -> None:
    with hosts(settings, "groq") as found:
        found["groq"].script(reply("Fine.", usage=USAGE))
        outcome = ask(server, "send", metadata={"model": "groq/house-blend"})
    # 100 x 2000 + 20 x 3000
    assert server.trace(outcome.trace_id)["cost"]["priceVersion"] == "settings"
    assert_costs(server, outcome.trace_id, 260_000, response=outcome.body)


# --- Prices that nobody knows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_model_of_unknown_price(
    server: Server, backend: Backend, settings: Any, provider: str, endpoint: str
) -> None:
    named = {"model": f"{provider}/house-blend-7b"}
    with hosts(settings, provider) as found:
        found[provider].default = reply("Fine.", usage=USAGE)
        uncounted = ask(server, endpoint, metadata=named)
        assert uncounted.status == 200, uncounted
        trace = server.trace(uncounted.trace_id)
        assert (trace["estimated"], trace["cost"]["priceVersion"]) == (True, LISTED)
        assert_costs(server, uncounted.trace_id, 0, response=uncounted.body)

        server.set_budget(limit=10)
        refused = ask(server, endpoint, metadata=named)
        assert (refused.status, refused.code) == (402, "unpriced_model"), refused
        assert refused.body["details"]["model"] == named["model"]
        assert server.trace(refused.trace_id)["steps"] == []
        assert len(found[provider].requests) == 1

        server.set_budget(limit=10, allow_unpriced=True)
        estimated = ask(server, endpoint, metadata=named)
        trace = server.trace(estimated.trace_id)
        assert (trace["estimated"], trace["cost"]["priceVersion"]) == (True, "ceiling")
        # 150 in, 600 out: 100 x 150,000 + 20 x 600,000
        assert nano(trace["total_cost"]) == nano(estimated.body["cost"]["totalCost"]) == 27_000_000
        assert nano(server.budget()["spent"]) == 27_000_000
    assert_balanced()


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_fallback_of_unknown_price_is_not_asked_under_a_budget(
    server: Server, backend: Backend, settings: Any, endpoint: str
) -> None:
    with hosts(settings, "openai", "xai") as found:
        settings.LLM_MODEL_FALLBACK = "xai/house-blend-7b"
        server.set_budget(limit=10)
        found["openai"].default = error(500)
        outcome = ask(server, endpoint)
        assert (outcome.status, outcome.code) == (402 if endpoint == "send" else 0, "unpriced_model"), outcome
        assert found["xai"].requests == []
    assert attempts(server, outcome.trace_id) == [("gpt-4o-mini", "unavailable")] * 3
    assert backend.messages == []
    assert_costs(server, outcome.trace_id, 0)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_answer_without_counts_is_estimated(
    server: Server, backend: Backend, settings: Any, provider: str, endpoint: str
) -> None:
    with hosts(settings, provider) as found:
        server.set_budget(limit=1)
        found[provider].script(reply("Twelve bytes", with_usage=False))
        outcome = ask(server, endpoint)
    assert outcome.status == 200, outcome
    assert server.trace(outcome.trace_id)["estimated"] is True
    usage = outcome.body["usage"]
    assert usage["completion_tokens"] == 3
    assert usage["prompt_tokens"] > 10
    # No cache, no thoughts: the prompt by its size, and a token for every four bytes of the answer.
    cost = MODELS[provider].cost(Usage(input=usage["prompt_tokens"], output=3))
    assert_costs(server, outcome.trace_id, cost, response=outcome.body)
