"""The offline model: deterministic, honest about what it is, and able to show every path of the tool loop."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clasper.core.usage import estimate_tokens
from clasper.gateways.llm.base import Completion, Message, ModelCall, TextDelta, ToolCall, ToolSpec
from clasper.gateways.llm.offline import Offline
from clasper.gateways.llm.offline_arguments import arguments_for

ORDER = {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]}
LOOKUP = ToolSpec("orders:lookup", "Finds an order.", ORDER)
REFUND = ToolSpec("refund_order", "Pays back.", {"type": "object", "properties": {"order": {"type": "integer"}}})
WEATHER = ToolSpec("getWeather", "", {"type": "object", "properties": {"city": {"type": "string"}}})


def question(*messages: Message | str, tools: tuple[ToolSpec, ...] = (), limit: int = 500) -> ModelCall:
    said = tuple(each if isinstance(each, Message) else Message("user", each) for each in messages)
    return ModelCall(model="offline-1", messages=said, tools=tools, max_output_tokens=limit, timeout=5)


def wanted(completion: Completion) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in completion.tool_calls]


async def test_it_says_what_it_is_and_what_it_heard() -> None:
    call = question(Message("system", "You are Jarvis."), "How are\n  you?")
    completion = await Offline().complete(call)
    assert "offline model" in completion.text
    assert '"How are you?"' in completion.text
    assert (completion.finish, completion.model, completion.usage_reported) == ("stop", "offline-1", True)
    assert completion.usage.input == estimate_tokens("You are Jarvis.") + estimate_tokens("How are\n  you?")
    assert completion.usage.output == estimate_tokens(completion.text)
    assert await Offline().complete(call) == completion


DIRECTIVES: list[tuple[str, list[tuple[str, str]]]] = [
    ('use tool orders:lookup {"order_id": "A-1"}', [("orders:lookup", '{"order_id": "A-1"}')]),
    ('Please USE TOOL secret/shell.exec {"a": {"b": "}"}} now', [("secret/shell.exec", '{"a": {"b": "}"}}')]),
    ("use tool ping", [("ping", "{}")]),
    ('use tool a {"n":1} and use tool b {"n":2}', [("a", '{"n":1}'), ("b", '{"n":2}')]),
    ('use tool a {"n": oops\nnext line', [("a", '{"n": oops')]),
]


@pytest.mark.parametrize(("text", "expected"), DIRECTIVES)
async def test_a_directive_calls_exactly_that_tool_offered_or_not(text: str, expected: list[tuple[str, str]]) -> None:
    completion = await Offline().complete(question(text, tools=(LOOKUP,)))
    assert [(call.name, call.arguments) for call in completion.tool_calls] == expected
    assert (completion.finish, completion.text) == ("tool_calls", "")
    assert len({call.id for call in completion.tool_calls}) == len(expected)
    assert completion.usage.output > 0


GUESSES = [
    ("please look up order 1042", [("orders:lookup", {"order_id": "1042"})]),
    ("lookup the orders with id ORD-77", [("orders:lookup", {"order_id": "ORD-77"})]),
    ("Refund order 12!", [("refund_order", {"order": 12})]),
    ("What is the weather in 'Oslo'?", [("getWeather", {"city": "Oslo"})]),
    ("Tell me a joke", []),
    ("What is an order?", []),
]


@pytest.mark.parametrize(("text", "expected"), GUESSES)
async def test_a_tool_that_the_message_speaks_of_is_called(text: str, expected: list[tuple[str, Any]]) -> None:
    completion = await Offline().complete(question(text, tools=(LOOKUP, REFUND, WEATHER)))
    assert wanted(completion) == expected
    assert not wanted(await Offline().complete(question(text)))


async def test_it_answers_with_the_results_and_asks_no_further() -> None:
    history = (
        Message("user", 'use tool orders:lookup {"order_id":"1"}'),
        Message("assistant", "", (ToolCall("call_0", "orders:lookup", "{}"), ToolCall("call_1", "ping", "{}"))),
        Message("tool", '{"status":\n  "shipped"}', tool_call_id="call_0"),
        Message("tool", "x" * 5000, tool_call_id="call_1"),
    )
    completion = await Offline().complete(question(*history, tools=(LOOKUP,)))
    assert completion.finish == "stop"
    assert 'orders:lookup returned: {"status": "shipped"}' in completion.text
    assert "ping returned: xxx" in completion.text
    assert len(completion.text) < 600
    again = await Offline().complete(question(*history, Message("assistant", "ok"), "use tool ping", tools=(LOOKUP,)))
    assert [call.id for call in again.tool_calls] == ["call_2"]


async def test_a_limit_cuts_the_answer() -> None:
    completion = await Offline().complete(question("Grüße, 你好", limit=5))
    assert completion.finish == "length"
    assert 0 < completion.usage.output <= 5


@given(text=st.text(max_size=300), limit=st.integers(1, 200))
async def test_the_stream_is_the_same_answer_in_words(text: str, limit: int) -> None:
    call = question(text, tools=(LOOKUP,), limit=limit)
    events = [event async for event in Offline().stream(call)]
    last = events.pop()
    assert last == await Offline().complete(call)
    assert isinstance(last, Completion)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == last.text
    assert all(isinstance(event, TextDelta) and event.text for event in events)
    assert last.usage.output <= limit or last.tool_calls


SCHEMAS: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"n": {"type": "integer"}}, "7.5 or 8", {"n": 8}),
    ({"n": {"type": "number"}}, "-7.5 degrees", {"n": -7.5}),
    ({"n": {"type": ["integer", "null"]}}, "3", {"n": 3}),
    ({"order_id": {"type": "string"}}, "order ORD-12 of 3", {"order_id": "ORD-12"}),
    ({"email": {"type": "string"}}, "to ann@acme.example please", {"email": "ann@acme.example"}),
    ({"q": {"type": "string"}}, "find “red shoes”", {"q": "red shoes"}),
    ({"q": {"type": "string"}}, "find shoes", {"q": "find shoes"}),
    ({"size": {"enum": ["small", "large"]}}, "a LARGE one", {"size": "large"}),
    ({"size": {"enum": ["small", "large"]}}, "one", {"size": "small"}),
    ({"size": {"type": "string", "default": "m"}}, "one", {"size": "m"}),
    ({"v": {"const": 2}}, "one", {"v": 2}),
    ({"ids": {"type": "array", "items": {"type": "integer"}}}, "5", {"ids": [5]}),
    ({"ids": {"type": "array"}}, "x", {"ids": []}),
    ({"yes": {"type": "boolean"}}, "x", {"yes": True}),
    ({"n": {"type": "integer"}}, "none", {"n": 0}),
    ({"o": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}, "4", {"o": {"n": 4}}),
    ({"a": {"type": "integer"}, "b": {"type": "integer"}}, "1 and 2", {"a": 1, "b": 2}),
]


@pytest.mark.parametrize(("properties", "text", "expected"), SCHEMAS)
def test_required_arguments_come_from_the_message_or_a_default(
    properties: dict[str, Any], text: str, expected: dict[str, Any]
) -> None:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    assert arguments_for(schema, text) == expected


def test_optional_arguments_are_left_out_unless_the_message_holds_them() -> None:
    schema = {"type": "object", "properties": {"q": {"type": "string"}, "n": {"type": "integer"}}}
    assert arguments_for(schema, "nothing here") == {}
    assert arguments_for(schema, "top 3") == {"n": 3}
    assert arguments_for({}, "x") == {}
    nested: dict[str, Any] = {"type": "object", "required": ["o"], "properties": {}}
    nested["properties"]["o"] = nested
    assert json.dumps(arguments_for(nested, "x"))
