"""Recorded exchanges of Anthropic's host, served by the fake: our request means the same, the answer is read right."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from yarl import URL

from clasper.core.usage import Usage
from clasper.gateways.http import close_session
from clasper.gateways.llm.anthropic import AnthropicFormat
from clasper.gateways.llm.base import Completion, Message, ModelCall, TextDelta, ToolSpec
from clasper.gateways.llm.exchange import HttpProvider
from fakes.llm import FakeProvider, raw
from fakes.llm.anthropic import FakeAnthropic
from tests.gateways.wire_formats import RECORDINGS, needs_recordings, recorded

FOLDER = RECORDINGS / "anthropic"
pytestmark = needs_recordings

Expected = tuple[str, tuple[tuple[str, dict[str, Any]], ...], str, Usage, tuple[str, ...]]
"""Text (its beginning), tool calls (name, arguments), finish, usage, the types of the blocks that go back."""

FAMILY = tuple(("retrieve_entity_info", {"name": name}) for name in ("Alice", "Bob", "Charlie", "Daisy"))

ANSWERS: dict[tuple[str, int], Expected] = {
    ("anthropic_model_instructions", 0): (
        "The capital of France is Paris.",
        (),
        "stop",
        Usage(input=20, output=10),
        (),
    ),
    ("anthropic_tool_output", 0): ("", (("get_user_country", {}),), "tool_calls", Usage(input=445, output=23), ()),
    ("anthropic_tool_output", 1): (
        "",
        (("final_result", {"city": "Mexico City", "country": "Mexico"}),),
        "tool_calls",
        Usage(input=497, output=56),
        (),
    ),
    ("anthropic_tool_with_thinking", 0): (
        "I'll help you find the largest city in your country.",
        (("get_user_country", {}),),
        "tool_calls",
        Usage(input=398, output=155),
        ("thinking", "text", "tool_use"),
    ),
    ("anthropic_tool_with_thinking", 1): (
        "Based on the information that you're from Mexico",
        (),
        "stop",
        Usage(input=566, output=126),
        (),
    ),
    ("anthropic_model_thinking_part_stream", 0): (
        "Here are the basic steps for safely crossing the street:",
        (),
        "stop",
        Usage(input=43, output=282),
        ("thinking", "text"),
    ),
    ("multiple_parallel_tool_calls", 0): (
        "I'll help you find out who is the youngest",
        FAMILY,
        "tool_calls",
        Usage(input=423, output=202),
        (),
    ),
    ("multiple_parallel_tool_calls", 1): (
        "Based on the retrieved information",
        (),
        "stop",
        Usage(input=771, output=77),
        (),
    ),
    ("anthropic_cache_real_api", 0): (
        "# What is Python?",
        (),
        "stop",
        Usage(input=3, cached=1111, output=406),
        (),
    ),
    ("anthropic_cache_real_api", 1): (
        "Python is a beginner-friendly, versatile programming language",
        (),
        "stop",
        Usage(input=3, cached=1111, cache_write=418, output=33),
        (),
    ),
}

OURS = {"model", "max_tokens", "messages", "system", "tools", "stream"}
UNSAID = {"tool_choice", "thinking", "cache_control"}
"""Fields of the recorded requests that our calls never set."""


def name_of(key: tuple[str, int]) -> str:
    return f"{key[0]}-{key[1]}"


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(FakeAnthropic()) as host:
        yield host
        await close_session()


def messages_of(turn: dict[str, Any], tools: tuple[ToolSpec, ...]) -> list[Message]:
    """The messages that our conversation holds for a recorded turn; the assistant's as we would have read them."""
    if turn["role"] == "assistant":
        call = ModelCall(model="", messages=(), tools=tools, max_output_tokens=1, timeout=1)
        read = AnthropicFormat("anthropic", URL()).decode(json.dumps({"content": turn["content"]}).encode(), call)
        return [Message("assistant", read.text, read.tool_calls, extra=read.extra)]
    return [
        Message("user", block["text"])
        if block["type"] == "text"
        else Message("tool", block["content"], tool_call_id=block["tool_use_id"], failed=block["is_error"])
        for block in turn["content"]
    ]


def call_of(body: dict[str, Any]) -> ModelCall:
    """The call that we would make where the recorded client made this request."""
    tools = tuple(ToolSpec(tool["name"], tool["description"], tool["input_schema"]) for tool in body.get("tools", ()))
    system = [Message("system", body["system"])] if "system" in body else []
    messages = (*system, *(message for turn in body["messages"] for message in messages_of(turn, tools)))
    return ModelCall(
        model=body["model"], messages=messages, tools=tools, max_output_tokens=body["max_tokens"], timeout=5
    )


def meaning(body: dict[str, Any]) -> dict[str, Any]:
    """What a request asks, without the spellings that mean the same."""
    messages = [
        {
            "role": turn["role"],
            "content": [{k: v for k, v in block.items() if (k, v) != ("is_error", False)} for block in turn["content"]],
        }
        for turn in body["messages"]
    ]
    return {"stream": False, **{k: v for k, v in body.items() if k not in UNSAID}, "messages": messages}


async def replay(fake: FakeProvider, exchange: dict[str, Any]) -> tuple[list[str], Completion]:
    answer = exchange["response"]
    body = (answer["text"] if "text" in answer else json.dumps(answer["json"])).encode()
    fake.script(raw(body, status=answer["status"], content_type=answer["content_type"]))
    base = URL(fake.url).with_query(URL(exchange["request"]["url"]).query)
    provider = HttpProvider(AnthropicFormat("anthropic", base), "key", "")
    call = call_of(exchange["request"]["body"])
    if not exchange["request"]["body"].get("stream"):
        return [], await provider.complete(call)
    events = [event async for event in provider.stream(call)]
    last = events.pop()
    assert isinstance(last, Completion)
    return [event.text for event in events if isinstance(event, TextDelta)], last


@pytest.mark.parametrize("key", ANSWERS, ids=name_of)
async def test_a_recorded_answer(fake: FakeProvider, key: tuple[str, int]) -> None:
    exchange = recorded(f"anthropic/{key[0]}", key[1])
    deltas, completion = await replay(fake, exchange)
    text, tool_calls, finish, usage, kept = ANSWERS[key]
    assert completion.text.startswith(text)
    assert bool(completion.text) == bool(text)
    assert tuple((call.name, json.loads(call.arguments)) for call in completion.tool_calls) == tool_calls
    assert all(call.id.startswith("toolu_") for call in completion.tool_calls)
    assert (completion.finish, completion.usage, completion.usage_reported) == (finish, usage, True)
    assert tuple(block["type"] for block in completion.extra.get("anthropic", ())) == kept
    if "json" in exchange["response"]:
        assert completion.model == exchange["response"]["json"]["model"]
    else:
        assert "".join(deltas) == completion.text
        assert len(deltas) > 3


@pytest.mark.parametrize("key", ANSWERS, ids=name_of)
async def test_our_request_means_what_the_recorded_one_means(fake: FakeProvider, key: tuple[str, int]) -> None:
    exchange = recorded(f"anthropic/{key[0]}", key[1])
    theirs = exchange["request"]["body"]
    await replay(fake, exchange)
    (ours,) = fake.requests
    assert meaning(ours.body) == meaning(theirs)
    assert theirs.keys() <= OURS | UNSAID
    assert ours.body.keys() <= OURS
    assert ours.request.path_qs == URL(exchange["request"]["url"]).path_qs
    assert not fake.problems


def test_every_recorded_exchange_of_this_wire_is_tested() -> None:
    found = {(path.stem, n) for path in FOLDER.glob("*.json") for n in range(len(json.loads(path.read_text())))}
    assert found == ANSWERS.keys()
