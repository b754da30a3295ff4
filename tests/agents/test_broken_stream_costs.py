"""Streams that break: what their provider counted, or by estimate what arrived, is paid."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from clasper.core.model_ref import PROVIDERS
from clasper.core.usage import Usage
from fakes.llm import Behaviour, raw, reply
from tests.agents.backend import Backend
from tests.agents.hosts import MODELS, ask, assert_costs, hosts, model_steps
from tests.agents.ledger import nano
from tests.world import Server

USAGE = Usage(input=100, output=20)
COUNTS = {"prompt_tokens": 200, "completion_tokens": 40, "total_tokens": 240}
HAIKU = "claude-haiku-4-5"


def events(*payloads: Any) -> Behaviour:
    """A stream of exactly these payloads."""
    body = b"".join(b"data: " + json.dumps(payload).encode() + b"\n\n" for payload in payloads)
    return raw(body, content_type="text/event-stream")


def word(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


def failed(usage: dict[str, Any] | None) -> dict[str, Any]:
    """How OpenRouter tells in mid stream that the model's host failed."""
    choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
    chunk = {"error": {"code": 502, "message": "Upstream error"}, "choices": [choice]}
    return chunk if usage is None else {**chunk, "usage": usage}


def begun(**usage: int) -> tuple[dict[str, Any], ...]:
    """The beginning of a message of Anthropic's, with its counts."""
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": HAIKU, "content": [], "usage": usage}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    return {"type": "message_start", "message": message}, block


def said(text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}


OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


def candidate(text: str, **counts: int) -> dict[str, Any]:
    content = {"role": "model", "parts": [{"text": text}]}
    return {"candidates": [{"content": content, "index": 0}], "usageMetadata": counts}


CACHED = {"input_tokens": 200, "cache_read_input_tokens": 1000, "cache_creation_input_tokens": 400, "output_tokens": 1}


@dataclass(frozen=True)
class Broken:
    """A stream that breaks after `Hello there.`, three tokens by estimate. `cost` is exact, in nano-USD."""

    id: str
    provider: str
    stream: Behaviour
    code: str
    tokens: tuple[int, int]
    cost: int
    estimated: bool


BROKEN = [
    # 200 x 150 + 40 x 600
    Broken(
        "openrouter counts its failure",
        "openrouter",
        events(word("Hello "), word("there."), failed(COUNTS)),
        "unavailable",
        (200, 40),
        54_000,
        False,
    ),
    # 200 x 1000 + 1000 x 100 + 400 x 1250 + 3 x 5000: the model had said more than it counted
    Broken(
        "anthropic counted the prompt",
        "anthropic",
        events(*begun(**CACHED), said("Hello "), said("there."), OVERLOADED),
        "unavailable",
        (1600, 3),
        815_000,
        True,
    ),
    # The same, cut off without a word
    Broken(
        "anthropic is cut off",
        "anthropic",
        events(*begun(**CACHED), said("Hello "), said("there.")),
        "connection",
        (1600, 3),
        815_000,
        True,
    ),
    # 90 x 300 + 10 x 30 + 7 x 2500: the total holds more than the parts
    Broken(
        "gemini counts each chunk",
        "gemini",
        events(
            candidate("Hello ", promptTokenCount=100, cachedContentTokenCount=10, totalTokenCount=101),
            candidate("there.", promptTokenCount=100, cachedContentTokenCount=10, totalTokenCount=107),
        ),
        "connection",
        (100, 7),
        44_800,
        False,
    ),
    # 200 x 300 + 40 x 500
    Broken(
        "xai counted before it failed",
        "xai",
        events({**word("Hello "), "usage": COUNTS}, {**word("there."), "usage": COUNTS}),
        "connection",
        (200, 40),
        80_000,
        False,
    ),
]


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.id)
def test_a_stream_that_breaks_is_paid_as_its_provider_counted(
    server: Server, backend: Backend, settings: Any, case: Broken
) -> None:
    with hosts(settings, case.provider, "mistral") as found:
        settings.LLM_MODEL_FALLBACK = f"mistral/{MODELS['mistral'].name}"
        server.set_budget(limit=1)
        found[case.provider].script(case.stream)
        outcome = ask(server, "stream")
        assert outcome.events == ("start", "chunk", "chunk", "error")
        assert (outcome.code, len(found[case.provider].requests)) == ("provider_error", 1)
        assert found["mistral"].requests == []
        (step,) = model_steps(server, outcome.trace_id)
        assert (step["code"], step["status"]) == (case.code, "error")
        assert (step["prompt_tokens"], step["completion_tokens"]) == case.tokens
        assert server.trace(outcome.trace_id)["estimated"] is case.estimated
        assert backend.messages == []
        assert_costs(server, outcome.trace_id, case.cost)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stream_that_breaks_uncounted_is_paid_by_estimate(
    server: Server, backend: Backend, settings: Any, provider: str
) -> None:
    uncounted = {
        "anthropic": events(*begun(), said("Hello "), said("there.")),
        "gemini": events(candidate("Hello "), candidate("there.")),
    }
    with hosts(settings, provider) as found:
        server.set_budget(limit=1)
        found[provider].script(uncounted.get(provider, events(word("Hello "), word("there."))))
        outcome = ask(server, "stream")
        assert outcome.events == ("start", "chunk", "chunk", "error")
        (step,) = model_steps(server, outcome.trace_id)
        assert step["completion_tokens"] == 3
        assert step["prompt_tokens"] > 10
        assert server.trace(outcome.trace_id)["estimated"] is True
        assert len(found[provider].requests) == 1
        cost = MODELS[provider].cost(Usage(input=step["prompt_tokens"], output=3))
        assert_costs(server, outcome.trace_id, cost)


def test_a_stream_that_breaks_before_its_first_word_is_paid_and_started_again(
    server: Server, backend: Backend, settings: Any
) -> None:
    with hosts(settings, "anthropic") as found:
        server.set_budget(limit=1)
        found["anthropic"].script(events(*begun(**CACHED), OVERLOADED), reply("Fine.", usage=USAGE))
        outcome = ask(server, "stream")
        assert (outcome.status, outcome.body["response"]) == (200, "Fine."), outcome
        # 200 x 1000 + 1000 x 100 + 400 x 1250 + 1 x 5000, and 100 x 1000 + 20 x 5000
        steps = model_steps(server, outcome.trace_id)
        assert [(step["code"], nano(step["cost"])) for step in steps] == [("unavailable", 805_000), ("stop", 200_000)]
        assert server.trace(outcome.trace_id)["estimated"] is False
        assert_costs(server, outcome.trace_id, 1_005_000, response=outcome.body)
