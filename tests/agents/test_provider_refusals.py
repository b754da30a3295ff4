"""Refusals that say what is wrong with a request, and settings that are unfit for a provider."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

from apps.traces.models import Trace
from clasper.core.model_ref import PROVIDERS
from clasper.core.usage import Usage
from fakes.llm import Behaviour, Exchange, FakeProvider, error, reply, tool_calls
from tests.agents.backend import Backend
from tests.agents.hosts import ENDPOINTS, MODELS, ask, assert_costs, attempts, hosts, model_steps
from tests.agents.ledger import assert_balanced
from tests.world import ACME, Server

USAGE = Usage(input=100, output=20)
MINI = "gpt-4o-mini"
HAIKU = "claude-haiku-4-5"
GOOD = reply("Fine.", usage=USAGE)


@pytest.fixture
def pair(server: Server, backend: Backend, settings: Any) -> Iterator[dict[str, FakeProvider]]:
    """openai, the default, and anthropic; both answer well."""
    with hosts(settings, "openai", "anthropic") as found:
        for fake in found.values():
            fake.default = GOOD
        yield found


# --- Refusals that say what is wrong ---------------------------------------------------------------------------------

ONLY_DEFAULT = (
    "Unsupported value: 'temperature' does not support 0.4 with this model. Only the default (1) is supported."
)
TEMPERATURES = {
    "openai": ONLY_DEFAULT,
    "anthropic": "`temperature` is deprecated for this model.",
    "gemini": "Invalid value at 'generation_config.temperature'",
    "xai": "Argument not supported on this model: temperature",
    "groq": "`temperature` is not supported with this model",
    "mistral": "temperature is not supported for this model",
    "openrouter": ONLY_DEFAULT,
}
LIMITS = {
    "openai": "max_tokens is too large: {0}. This model supports at most 1024 completion tokens, but you gave {0}.",
    "anthropic": "max_tokens: {0} > 1024, which is the maximum number of output tokens for claude-3-haiku-20240307",
    "gemini": "a maxOutputTokens value of {0} but the supported range is from 1 (inclusive) to 1025 (exclusive).",
    "groq": "`max_completion_tokens` must be less than or equal to `1024`, the maximum value for this model",
}
"""How hosts say that a model gives at most 1024 tokens; `{0}` is what was asked for."""
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
NO_FORMATS = "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model."


def output_limit(exchange: Exchange) -> int:
    body = exchange.body.get("generationConfig") or exchange.body
    return int(body.get("maxOutputTokens") or body.get("max_completion_tokens") or body["max_tokens"])


def has_temperature(exchange: Exchange) -> bool:
    return "temperature" in (exchange.body.get("generationConfig") or exchange.body)


def picky(*refusals: Callable[[Exchange], str], answer: Behaviour = GOOD) -> Behaviour:
    """Refuses with the first sentence that there is against the request."""

    async def behaviour(exchange: Exchange) -> web.StreamResponse:
        found = next((sentence for refusal in refusals if (sentence := refusal(exchange))), "")
        return await (error(400, message=found) if found else answer)(exchange)

    return behaviour


def no_temperature(sentence: str = ONLY_DEFAULT) -> Callable[[Exchange], str]:
    return lambda exchange: sentence if has_temperature(exchange) else ""


def no_more_than(limit: int, sentence: str) -> Callable[[Exchange], str]:
    return lambda exchange: sentence.format(output_limit(exchange)) if output_limit(exchange) > limit else ""


def no_format(exchange: Exchange) -> str:
    return NO_FORMATS if "response_format" in exchange.body else ""


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_temperature_that_the_model_does_not_take_is_left_out(
    server: Server, backend: Backend, settings: Any, provider: str, endpoint: str
) -> None:
    with hosts(settings, provider) as found:
        fake = found[provider]
        fake.default = picky(no_temperature(TEMPERATURES[provider]))
        outcome = ask(server, endpoint)
        assert (outcome.status, outcome.body["response"]) == (200, "Fine."), outcome
        assert [has_temperature(exchange) for exchange in fake.requests] == [True, False]
        model = MODELS[provider]
        assert attempts(server, outcome.trace_id) == [(model.name, "invalid_request"), (model.name, "stop")]
        refused = model_steps(server, outcome.trace_id)[0]
        assert "temperature" in refused["output"]["detail"]
        assert_costs(server, outcome.trace_id, model.cost(USAGE), response=outcome.body)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("provider", LIMITS)
def test_an_output_limit_that_the_model_does_not_take_is_lowered(
    server: Server, backend: Backend, settings: Any, provider: str, endpoint: str
) -> None:
    with hosts(settings, provider) as found:
        fake = found[provider]
        fake.default = picky(no_more_than(1024, LIMITS[provider]))
        outcome = ask(server, endpoint)
        assert (outcome.status, outcome.body["response"]) == (200, "Fine."), outcome
        assert [output_limit(exchange) for exchange in fake.requests] == [4096, 1024]
        assert [code for _, code in attempts(server, outcome.trace_id)] == ["invalid_request", "stop"]
        assert_costs(server, outcome.trace_id, MODELS[provider].cost(USAGE), response=outcome.body)


def test_a_schema_that_the_host_does_not_take_is_left_to_the_prompt(
    server: Server, pair: dict[str, FakeProvider]
) -> None:
    fake = pair["openai"]
    fake.default = picky(no_format, answer=reply('{"city": "Rome"}', usage=USAGE))
    response = server.post("/llm-task", {"prompt": "Where?", "schema": SCHEMA, "tenant_id": ACME})
    assert response.status_code == 200, response.text
    body = response.json()
    assert (body["output"], body["validated"]) == ({"city": "Rome"}, True)
    assert ["response_format" in exchange.body for exchange in fake.requests] == [True, False]
    assert attempts(server, body["trace_id"]) == [(MINI, "invalid_request"), (MINI, "stop")]
    assert_balanced()


def test_everything_at_once_is_changed_one_after_the_other(server: Server, pair: dict[str, FakeProvider]) -> None:
    fake = pair["openai"]
    limit = no_more_than(1024, LIMITS["openai"])
    fake.default = picky(no_temperature(), limit, no_format, answer=reply('{"city": "Rome"}', usage=USAGE))
    response = server.post("/llm-task", {"prompt": "Where?", "schema": SCHEMA, "tenant_id": ACME})
    assert response.status_code == 200, response.text
    codes = [code for _, code in attempts(server, response.json()["trace_id"])]
    assert codes == ["invalid_request"] * 3 + ["stop"]
    last = fake.requests[-1]
    assert (has_temperature(last), output_limit(last), "response_format" in last.body) == (False, 1024, False)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_what_was_refused_once_is_not_asked_for_again_in_the_run(
    server: Server, backend: Backend, pair: dict[str, FakeProvider], endpoint: str
) -> None:
    backend.tools["orders:lookup"] = lambda arguments: {"status": "shipped"}
    fake = pair["openai"]
    rounds = iter([tool_calls(("orders_lookup", "{}"), usage=USAGE), GOOD])

    async def answer(exchange: Exchange) -> web.StreamResponse:
        return await next(rounds)(exchange)

    fake.default = picky(no_temperature(), answer=answer)
    outcome = ask(server, endpoint)
    assert outcome.status == 200, outcome
    assert [has_temperature(exchange) for exchange in fake.requests] == [True, False, False]


def test_the_fallback_is_asked_as_the_request_wants_it(
    server: Server, pair: dict[str, FakeProvider], settings: Any
) -> None:
    settings.LLM_MODEL_FALLBACK = f"anthropic/{HAIKU}"
    pair["openai"].script(error(400, message=ONLY_DEFAULT), *(error(500),) * 3)
    outcome = ask(server, "send")
    assert outcome.status == 200, outcome
    assert has_temperature(pair["anthropic"].requests[0])


@pytest.mark.parametrize(
    ("sentence", "requests"),
    [
        pytest.param("Something is wrong with your request.", 1, id="says nothing"),
        pytest.param(ONLY_DEFAULT, 2, id="says the same again"),
        pytest.param("max_tokens is wrong", 1, id="names no limit"),
        pytest.param("max_tokens must be at least 100000", 1, id="wants more"),
    ],
)
def test_a_refusal_that_cannot_be_met_ends_the_run(
    server: Server, backend: Backend, pair: dict[str, FakeProvider], sentence: str, requests: int
) -> None:
    pair["openai"].default = error(400, message=sentence)
    outcome = ask(server, "send")
    assert (outcome.status, outcome.code) == (502, "provider_error"), outcome
    assert len(pair["openai"].requests) == requests
    assert backend.messages == []
    assert_costs(server, outcome.trace_id, 0)


# --- Settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "key", [pytest.param("sk-very\nsecret", id="line break"), pytest.param("sk-very\u00e9secret", id="accent")]
)
def test_a_key_unfit_for_http_names_its_setting_only(
    server: Server,
    backend: Backend,
    settings: Any,
    caplog: pytest.LogCaptureFixture,
    provider: str,
    endpoint: str,
    key: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    with hosts(settings, provider) as found:
        setattr(settings, f"{provider.upper()}_API_KEY", key)
        outcome = ask(server, endpoint)
        assert (outcome.status, outcome.code) == (503, "model_not_configured"), outcome
        assert f"{provider.upper()}_API_KEY" in outcome.body["error"]
        assert found[provider].requests == []
    told = json.dumps(outcome.body) + caplog.text + json.dumps(server.audit())
    assert "secret" not in told
    assert "sk-very" not in told
    assert not Trace.objects.exists()


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_headers_of_the_settings_are_sent_to_their_provider(
    server: Server, backend: Backend, settings: Any, endpoint: str
) -> None:
    with hosts(settings, "openrouter", "anthropic") as found:
        settings.CLASPER_PROVIDER_HEADERS = {"openrouter": {"HTTP-Referer": "https://shop.example", "X-Title": "Shop"}}
        for fake in found.values():
            fake.default = GOOD
        assert ask(server, endpoint).status == 200
        assert ask(server, endpoint, metadata={"model": f"anthropic/{HAIKU}"}).status == 200
        own, other = (fake.requests[0].headers for fake in found.values())
        assert (own["HTTP-Referer"], own["X-Title"]) == ("https://shop.example", "Shop")
        assert own["Authorization"] == "Bearer key-of-openrouter"
        assert "X-Title" not in other


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", 7], ids=["line break", "number"])
def test_a_header_unfit_for_http_names_the_setting(
    server: Server, pair: dict[str, FakeProvider], settings: Any, value: Any
) -> None:
    settings.CLASPER_PROVIDER_HEADERS = {"openai": {"X-Team": value}}
    outcome = ask(server, "send")
    assert (outcome.status, outcome.code) == (503, "model_not_configured"), outcome
    assert "CLASPER_PROVIDER_HEADERS" in outcome.body["error"]
    assert "Evil" not in json.dumps(outcome.body)
    assert pair["openai"].requests == []
