"""What Anthropic's host is sent for a call, a conversation, a schema, and thinking that goes back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from yarl import URL

from clasper.gateways.http import close_session
from clasper.gateways.llm.anthropic import AnthropicFormat
from clasper.gateways.llm.base import Message, ModelCall, ProviderError, ToolCall, ToolSpec
from fakes.llm import Answer, FakeProvider, reply
from fakes.llm.anthropic import FakeAnthropic
from tests.gateways.anthropic_calls import CALL, HOST, KEPT, SCHEMA, TOOLS, WIRE, client, encoded, text_block
from tests.gateways.wire_formats import streamed


def conversation(*messages: Message) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = encoded(replace(CALL, messages=messages))["messages"]
    return turns


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(FakeAnthropic()) as host:
        yield host
        await close_session()


def test_the_request_says_what_the_call_says() -> None:
    call = ModelCall(
        model="claude-sonnet-4-5",
        messages=(
            Message("system", "Be brief."),
            Message("user", "Look up 1042 and 7"),
            Message(
                "assistant",
                "Let me look.",
                (ToolCall("toolu_1", "orders:lookup", '{"order":1042}'), ToolCall("toolu_2", "orders:lookup", "{oops")),
            ),
            Message("tool", "shipped", tool_call_id="toolu_1"),
            Message("tool", "no such order", tool_call_id="toolu_2", failed=True),
            Message("system", "Summary so far."),
            Message("user", "Thanks"),
        ),
        tools=TOOLS,
        max_output_tokens=64,
        temperature=0.4,
        timeout=5,
    )
    assert encoded(call, stream=True) == {
        "model": "claude-sonnet-4-5",
        "max_tokens": 64,
        "system": "Be brief.\n\nSummary so far.",
        "messages": [
            {"role": "user", "content": [text_block("Look up 1042 and 7")]},
            {
                "role": "assistant",
                "content": [
                    text_block("Let me look."),
                    {"type": "tool_use", "id": "toolu_1", "name": "orders_lookup", "input": {"order": 1042}},
                    {"type": "tool_use", "id": "toolu_2", "name": "orders_lookup", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": "shipped"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "toolu_2",
                        "content": "no such order",
                        "is_error": True,
                    },
                    text_block("Thanks"),
                ],
            },
        ],
        "tools": [
            {
                "name": "orders_lookup",
                "description": "Finds an order.",
                "input_schema": {"type": "object", "properties": {"order": {"type": "integer"}}},
            },
            {"name": "now", "description": "", "input_schema": {"type": "object", "properties": {}}},
        ],
        "temperature": 0.4,
        "stream": True,
    }


def test_what_is_not_said_is_not_sent() -> None:
    assert encoded(CALL).keys() == {"model", "max_tokens", "messages"}


def test_address_and_headers() -> None:
    assert str(WIRE.address(CALL, stream=False)) == "https://api.anthropic.com/v1/messages"
    proxied = AnthropicFormat("anthropic", URL("http://localhost:8080/a%2Fb/v1/?beta=true&x=a%20b"))
    address = proxied.address(CALL, stream=True)
    assert (address.raw_path, dict(address.query)) == ("/a%2Fb/v1/messages", {"beta": "true", "x": "a b"})
    assert WIRE.headers("key") == {"x-api-key": "key", "anthropic-version": "2023-06-01"}
    assert WIRE.headers("") == {"anthropic-version": "2023-06-01"}


OTHER_ID = f"call_{sha256(b'functions.now:0').hexdigest()[:24]}"
TURNS: dict[str, tuple[tuple[Message, ...], list[dict[str, Any]]]] = {
    "turns of one role are one": (
        (Message("user", "a"), Message("user", "b"), Message("assistant", "c"), Message("assistant", "d")),
        [
            {"role": "user", "content": [text_block("a"), text_block("b")]},
            {"role": "assistant", "content": [text_block("c"), text_block("d")]},
        ],
    ),
    "the assistant first": (
        (Message("assistant", "c"), Message("user", "a")),
        [
            {"role": "user", "content": [text_block("(earlier conversation)")]},
            {"role": "assistant", "content": [text_block("c")]},
            {"role": "user", "content": [text_block("a")]},
        ],
    ),
    "blank turns": (
        (Message("user", "a"), Message("assistant", " \n"), Message("user", ""), Message("user", "b")),
        [{"role": "user", "content": [text_block("a"), text_block("b")]}],
    ),
    "nothing but blanks": ((Message("user", " "),), [{"role": "user", "content": [text_block("(empty message)")]}]),
    "no message": ((Message("system", ""),), [{"role": "user", "content": [text_block("(empty message)")]}]),
    "the assistant last": (
        (Message("user", "a"), Message("assistant", "Once \n")),
        [
            {"role": "user", "content": [text_block("a")]},
            {"role": "assistant", "content": [text_block("Once")]},
        ],
    ),
    "results before words": (
        (
            Message("user", "a"),
            Message("assistant", "", (ToolCall("t1", "now", ""),)),
            Message("user", "wait"),
            Message("tool", "", tool_call_id="t1"),
        ),
        [
            {"role": "user", "content": [text_block("a")]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "now", "input": {}}]},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "t1", "content": ""}, text_block("wait")],
            },
        ],
    ),
    "a failure without words, ids of another host": (
        (
            Message("user", "a"),
            Message("assistant", "", (ToolCall("functions.now:0", "now", "[1]"),)),
            Message("tool", "", tool_call_id="functions.now:0", failed=True),
        ),
        [
            {"role": "user", "content": [text_block("a")]},
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": OTHER_ID, "name": "now", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": OTHER_ID,
                        "content": "(failed without a message)",
                        "is_error": True,
                    }
                ],
            },
        ],
    ),
}


@pytest.mark.parametrize(("messages", "turns"), TURNS.values(), ids=TURNS.keys())
def test_a_conversation_is_sent_as_the_host_takes_it(
    messages: tuple[Message, ...], turns: list[dict[str, Any]]
) -> None:
    assert conversation(*messages) == turns


@pytest.mark.parametrize(
    ("model", "asked", "sent"),
    [("claude-sonnet-4-5", 1.7, 1.0), ("claude-sonnet-4-5", -1.0, 0.0), ("claude-opus-4-7", 0.4, None)],
)
def test_the_temperature_is_what_the_model_takes(model: str, asked: float, sent: float | None) -> None:
    assert encoded(replace(CALL, model=model, temperature=asked)).get("temperature") == sent


def test_a_schema_is_enforced_by_a_tool() -> None:
    body = encoded(replace(CALL, schema=SCHEMA))
    (tool,) = body["tools"]
    assert (tool["name"], tool["input_schema"]) == ("output", SCHEMA)
    assert body["tool_choice"] == {"type": "tool", "name": "output"}


@pytest.mark.parametrize(
    "call",
    [
        replace(CALL, schema={"type": "array"}),
        replace(CALL, schema={"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}),
        replace(CALL, schema=SCHEMA, tools=TOOLS),
    ],
    ids=["of an array", "of alternatives", "beside tools"],
)
def test_a_schema_that_cannot_be_enforced_is_left_out(call: ModelCall) -> None:
    body = encoded(call)
    assert "tool_choice" not in body
    assert len(body.get("tools", ())) == len(call.tools)
    answer = json.dumps(HOST.whole(Answer(text="{}", calls=[("output", "{}")], finish="tool_calls"))).encode()
    assert WIRE.decode(answer, call).tool_calls[0].name == "output"


def test_a_schema_of_a_tool_without_a_type_gets_one() -> None:
    (tool,) = encoded(replace(CALL, tools=(ToolSpec("a", "", {"properties": {"x": {}}}),)))["tools"]
    assert tool["input_schema"] == {"type": "object", "properties": {"x": {}}}


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ('{"a": {"b": [1.50, 123456789012345678901234567890]}}', '{"a":{"b": [1.50, 123456789012345678901234567890]}}'),
        ("", "{}"),
        ("[1]", "{}"),
        ('{"a": 1', "{}"),
        ('{"a": "\\ud800"}', "{}"),
        ('{"a": "\ud800"}', "{}"),
        ('{"a":' * 100_000, "{}"),
    ],
    ids=["numbers as written", "none", "list", "cut", "half a character", "half a character, raw", "deep"],
)
def test_earlier_arguments_are_sent_as_an_object(arguments: str, sent: str) -> None:
    messages = (Message("assistant", "", (ToolCall("t1", "now", arguments),)), Message("tool", "", tool_call_id="t1"))
    assert f'"input":{sent}}}'.encode() in WIRE.encode(replace(CALL, messages=messages), stream=False)


@pytest.mark.parametrize(
    "call",
    [
        replace(CALL, messages=(Message("user", "\ud800"),)),
        replace(CALL, schema={"type": "object", "default": object()}),
    ],
    ids=["half a character", "object"],
)
def test_what_json_cannot_carry_is_refused_before_it_is_sent(call: ModelCall) -> None:
    with pytest.raises(ProviderError) as caught:
        WIRE.encode(call, stream=False)
    assert caught.value.kind == "invalid_request"


@pytest.mark.parametrize("streaming", [False, True], ids=["complete", "stream"])
async def test_thinking_goes_back_with_its_tool_calls(fake: FakeProvider, streaming: bool) -> None:
    calls = [("orders:lookup".replace(":", "_"), '{"order": 1}'), ("now", "{}")]
    fake.script(reply("Let me look.", calls=calls, finish="tool_calls", thinking="They want to know."))
    call = replace(CALL, tools=TOOLS)
    provider = client(fake)
    first = (await streamed(provider, call))[1] if streaming else await provider.complete(call)
    assert (first.text, first.finish) == ("Let me look.", "tool_calls")
    history = (
        *call.messages,
        Message("assistant", first.text, first.tool_calls, extra=json.loads(json.dumps(first.extra))),
        *(Message("tool", "ok", tool_call_id=each.id) for each in first.tool_calls),
    )
    await provider.complete(replace(call, messages=history))
    assert not fake.problems
    content = fake.requests[1].body["messages"][1]["content"]
    assert [block["type"] for block in content] == ["thinking", "text", "tool_use", "tool_use"]
    assert content[0]["thinking"] == "They want to know."


USES = (ToolCall("t1", "now", "{}"), ToolCall("t2", "now", "{}"))
RESULTS = (Message("tool", "1", tool_call_id="t1"), Message("tool", "2", tool_call_id="t2"))
ORDERS = {
    "as it was": ("One.Two", "anthropic", ["a", "One.", "t1", "Emwk", "Two", "t2"]),
    "text changed since": ("One", "anthropic", ["a", "Emwk", "b", "One", "t1", "t2"]),
    "of another provider": ("One.Two", "openrouter", ["One.Two", "t1", "t2"]),
}


@pytest.mark.parametrize(("text", "provider", "order"), ORDERS.values(), ids=ORDERS.keys())
def test_thinking_goes_back_in_its_place(text: str, provider: str, order: list[str]) -> None:
    answer = Message("assistant", text, USES, extra={provider: KEPT})
    content = conversation(Message("user", "Hi"), answer, *RESULTS)[1]["content"]
    keys = {"thinking": "thinking", "redacted_thinking": "data", "text": "text", "tool_use": "id"}
    assert [block[keys[block["type"]]] for block in content] == order


def test_an_answer_of_thinking_alone_is_left_out() -> None:
    answer = Message("assistant", "", extra={"anthropic": [KEPT[0]]})
    assert conversation(Message("user", "Hi"), answer, Message("user", "Well?")) == [
        {"role": "user", "content": [text_block("Hi"), text_block("Well?")]}
    ]


def test_ids_made_up_stay_unique_through_a_conversation() -> None:
    earlier = Message("assistant", "", (ToolCall("call_0", "a", "{}"), ToolCall("call_1", "a", "{}")))
    answer = b'{"content": [{"type": "tool_use", "name": "a"}, {"type": "tool_use", "name": "a"}]}'
    completion = WIRE.decode(answer, replace(CALL, messages=(earlier,)))
    assert [call.id for call in completion.tool_calls] == ["call_2", "call_3"]
