"""Recorded exchanges of real hosts, served by the fake: our request means the same, and the answer is read right."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from yarl import URL

from clasper.core.usage import Usage
from clasper.gateways.http import close_session
from clasper.gateways.llm.base import Completion, Message, ModelCall, ProviderError, TextDelta, ToolCall, ToolSpec
from clasper.gateways.llm.exchange import HttpProvider
from clasper.gateways.llm.openai_chat import ChatFormat
from clasper.gateways.llm.openai_chat.dialects import COMPATIBLE
from fakes.llm import FakeChat, FakeProvider, raw
from tests.gateways.wire_formats import RECORDINGS, needs_recordings, recorded

pytestmark = needs_recordings

Expected = tuple[str, tuple[tuple[str, str], ...], str, Usage]
"""Text (its beginning), tool calls (name, arguments), finish, usage."""

ANSWERS: dict[tuple[str, int], Expected] = {
    ("openai/compatible_api_with_tool_calls_without_id", 0): (
        "",
        (("get_current_time", "{}"),),
        "tool_calls",
        Usage(input=35, output=74, reasoning=62),
    ),
    ("openai/compatible_api_with_tool_calls_without_id", 1): (
        "The current time is Noon.",
        (),
        "stop",
        Usage(input=66, output=34, reasoning=28),
    ),
    ("openai/multiple_agent_tool_calls", 2): (
        "",
        (("get_capital", '{"country":"England"}'),),
        "tool_calls",
        Usage(input=104, output=16),
    ),
    ("openai/multiple_agent_tool_calls", 3): (
        "The capital of England is London.",
        (),
        "stop",
        Usage(input=129, output=9),
    ),
    ("openai/openai_instructions_with_tool_calls_keep_instructions", 0): (
        "",
        (("get_temperature", '{"city":"Tokyo"}'),),
        "tool_calls",
        Usage(input=50, output=15),
    ),
    ("openai/openai_instructions_with_tool_calls_keep_instructions", 1): (
        "The temperature in Tokyo is currently 20.0 degrees Celsius.",
        (),
        "stop",
        Usage(input=75, output=15),
    ),
    ("openai/openai_native_output", 0): ("", (("get_user_country", "{}"),), "tool_calls", Usage(input=71, output=12)),
    ("openai/openai_native_output", 1): (
        '{"city":"Mexico City","country":"Mexico"}',
        (),
        "stop",
        Usage(input=92, output=15),
    ),
    ("openai/openai_tool_output", 0): ("", (("get_user_country", "{}"),), "tool_calls", Usage(input=68, output=12)),
    ("openai/openai_tool_output", 1): (
        "",
        (("final_result", '{"city": "Mexico City", "country": "Mexico"}'),),
        "tool_calls",
        Usage(input=89, output=36),
    ),
    ("openai/run_stream_sync_streams_real_model", 0): (
        "",
        (("get_capital", '{"country":"UK"}'),),
        "tool_calls",
        Usage(input=53, output=15),
    ),
    ("openai/run_stream_sync_streams_real_model", 1): (
        "The capital of the UK is London.",
        (),
        "stop",
        Usage(input=78, output=9),
    ),
    ("groq/groq_model_instructions", 0): ("The capital of France is Paris.", (), "stop", Usage(input=48, output=8)),
    ("groq/tool_use_failed_error", 1): (
        "",
        (("get_something_by_name", '{"name":"test"}'),),
        "tool_calls",
        Usage(input=301, output=52, reasoning=22),
    ),
    ("groq/tool_use_failed_error", 2): (
        "The first call failed due to missing and extra",
        (),
        "stop",
        Usage(input=80, cached=256, output=96, reasoning=59),
    ),
    ("mistral/mistral_forwards_penalties", 0): ("Hello! 😊 How can", (), "stop", Usage(input=4, output=36)),
    ("mistral/mistral_history_uses_prompt_cache", 0): ("cache probe one.", (), "stop", Usage(input=253, output=5)),
    ("mistral/mistral_history_uses_prompt_cache", 1): (
        "cache probe two.",
        (),
        "stop",
        Usage(input=44, cached=224, output=5),
    ),
    ("openrouter/openrouter_stream_with_native_options", 0): (
        "I'm Grok, an AI built by xAI.",
        (),
        "stop",
        Usage(input=8, cached=679, output=187, reasoning=118),
    ),
    ("openrouter/openrouter_tool_calling", 0): (
        "",
        (("divide", '{"numerator": 123, "denominator": 456, "on_inf": "infinity"}'),),
        "tool_calls",
        Usage(input=134, output=43),
    ),
}

FAILURES: dict[tuple[str, int], tuple[str, int]] = {
    ("groq/tool_regular_error", 0): ("unknown_model", 404),
    ("groq/tool_use_failed_error", 0): ("bad_response", 400),
    ("openrouter/openrouter_errors_raised", 0): ("rate_limited", 429),
    ("openrouter/openrouter_errors_raised", 1): ("rate_limited", 429),
    ("openrouter/openrouter_errors_raised", 2): ("rate_limited", 429),
    ("openrouter/openrouter_stream_error", 0): ("invalid_request", 400),
}

UNSAID = {"n", "tool_choice", "stream", "stream_options", "response_format", "model", "messages", "tools"}
UNSAID |= {"frequency_penalty", "presence_penalty", "top_p", "stop", "prompt_cache_key", "max_completion_tokens"}
UNSAID |= {"include_reasoning", "models", "provider", "preset", "transforms", "usage", "reasoning"}
"""Fields of the recorded requests that are compared apart, are defaults, or that our calls never set."""


def name_of(key: tuple[str, int]) -> str:
    return f"{key[0].split('/')[1]}-{key[1]}"


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(FakeChat()) as host:
        yield host
        await close_session()


def text_of(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content or ())


def call_of(body: dict[str, Any]) -> ModelCall:
    """The call that we would make where the recorded client made this request."""
    messages = tuple(
        Message(
            each["role"],
            text_of(each.get("content")),
            tuple(
                ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])
                for call in each.get("tool_calls") or ()
            ),
            each.get("tool_call_id", ""),
        )
        for each in body["messages"]
    )
    tools = tuple(
        ToolSpec(tool["function"]["name"], tool["function"]["description"], tool["function"]["parameters"])
        for tool in body.get("tools", ())
    )
    return ModelCall(model=body["model"], messages=messages, tools=tools, max_output_tokens=500, timeout=5)


def meaning(body: dict[str, Any]) -> dict[str, Any]:
    """What a request asks, without the spellings that mean the same."""
    messages = [
        {
            "role": each["role"],
            "content": text_of(each.get("content")),
            "tool_calls": each.get("tool_calls") or [],
            "tool_call_id": each.get("tool_call_id"),
        }
        for each in body["messages"]
    ]
    tools = [
        {"type": tool["type"], "function": {k: v for k, v in tool["function"].items() if k != "strict"}}
        for tool in body.get("tools", ())
    ]
    stream = bool(body.get("stream"))
    return {"model": body["model"], "messages": messages, "tools": tools, "stream": stream}


async def replay(fake: FakeProvider, exchange: dict[str, Any]) -> tuple[list[str], Completion]:
    answer = exchange["response"]
    body = (answer["text"] if "text" in answer else json.dumps(answer["json"])).encode()
    fake.script(raw(body, status=answer["status"], content_type=answer["content_type"]))
    provider = HttpProvider(ChatFormat("openai", URL(f"{fake.url}/chat/completions"), COMPATIBLE), "key", "")
    call = call_of(exchange["request"]["body"])
    if not exchange["request"]["body"].get("stream"):
        return [], await provider.complete(call)
    events = [event async for event in provider.stream(call)]
    last = events.pop()
    assert isinstance(last, Completion)
    return [event.text for event in events if isinstance(event, TextDelta)], last


@pytest.mark.parametrize("key", ANSWERS, ids=name_of)
async def test_a_recorded_answer(fake: FakeProvider, key: tuple[str, int]) -> None:
    exchange = recorded(*key)
    deltas, completion = await replay(fake, exchange)
    text, tool_calls, finish, usage = ANSWERS[key]
    assert completion.text.startswith(text)
    assert bool(completion.text) == bool(text)
    assert tuple((call.name, call.arguments) for call in completion.tool_calls) == tool_calls
    assert all(call.id for call in completion.tool_calls)
    assert (completion.finish, completion.usage, completion.usage_reported) == (finish, usage, True)
    if exchange["request"]["body"].get("stream"):
        assert "".join(deltas) == completion.text
        assert len(deltas) > 3 or not text


@pytest.mark.parametrize("key", FAILURES, ids=name_of)
async def test_a_recorded_failure(fake: FakeProvider, key: tuple[str, int]) -> None:
    with pytest.raises(ProviderError) as caught:
        await replay(fake, recorded(*key))
    assert (caught.value.kind, caught.value.status) == FAILURES[key]


@pytest.mark.parametrize("key", [*ANSWERS, *FAILURES], ids=name_of)
async def test_our_request_means_what_the_recorded_one_means(fake: FakeProvider, key: tuple[str, int]) -> None:
    exchange = recorded(*key)
    theirs = exchange["request"]["body"]
    try:
        await replay(fake, exchange)
    except ProviderError:
        assert key in FAILURES
    ours = fake.requests[0].body
    assert meaning(ours) == meaning(theirs)
    assert ours.get("stream_options") == theirs.get("stream_options")
    assert theirs.keys() <= UNSAID
    assert ours.keys() <= {"model", "messages", "tools", "stream", "stream_options", "max_tokens"}


def test_every_recorded_exchange_of_this_wire_is_tested() -> None:
    found = {
        (f"{path.parent.name}/{path.stem}", index)
        for path in RECORDINGS.glob("*/*.json")
        for index, exchange in enumerate(json.loads(path.read_text()))
        if exchange["request"]["url"].endswith("/chat/completions")
    }
    assert found == ANSWERS.keys() | FAILURES.keys()
