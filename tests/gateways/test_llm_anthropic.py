"""Hand-written answers, streams and errors of Anthropic's messages wire, and the requests that its host would take."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from clasper.core.usage import Usage
from clasper.gateways.http import close_session
from clasper.gateways.llm.anthropic import AnthropicWire
from clasper.gateways.llm.base import Completion, Message, ModelCall, ProviderError, TextDelta, ToolCall, ToolSpec
from clasper.gateways.llm.exchange import HttpProvider
from clasper.gateways.llm.fake import Answer, FakeProvider, raw, reply, stream_error
from clasper.gateways.llm.fake.anthropic import FakeAnthropic
from tests.gateways.wires import cases, facts, streamed

WIRE = AnthropicWire("anthropic", URL("https://api.anthropic.com/v1"))
HOST = FakeAnthropic()
TOOLS = (
    ToolSpec("orders:lookup", "Finds an order.", {"type": "object", "properties": {"order": {"type": "integer"}}}),
    ToolSpec("now", "", {}),
)
CALL = ModelCall(model="claude-sonnet-4-5", messages=(Message("user", "Hi"),), max_output_tokens=100, timeout=5)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def kept_facts(completion: Completion) -> dict[str, Any]:
    return facts(completion, kept=completion.extra.get("anthropic"))


def call_of(case: dict[str, Any]) -> ModelCall:
    return replace(CALL, schema=case["schema"]) if "schema" in case else replace(CALL, tools=TOOLS)


def encoded(call: ModelCall, *, stream: bool = False) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(WIRE.encode(call, stream=stream))
    assert HOST.fault(WIRE.headers("key"), body) is None
    return body


def conversation(*messages: Message) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = encoded(replace(CALL, messages=messages))["messages"]
    return turns


def text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def payloads(chunks: Iterable[bytes]) -> list[bytes]:
    return [line[5:].strip() for chunk in chunks for line in chunk.splitlines() if line.startswith(b"data:")]


def assembled(events: Iterable[bytes], call: ModelCall = CALL) -> tuple[list[str], Completion]:
    assembly = WIRE.assembly(call)
    deltas = [text for event in events if (text := assembly.add(event))]
    assert assembly.done
    return deltas, assembly.completion()


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(FakeAnthropic()) as host:
        yield host
        await close_session()


def client(fake: FakeProvider, key: str = "sk-ant-none") -> HttpProvider:
    return HttpProvider(AnthropicWire("anthropic", URL(fake.url)), key, "")


@pytest.mark.parametrize("case", cases("anthropic_answers.json"))
async def test_a_whole_answer_becomes_one_completion(fake: FakeProvider, case: dict[str, Any]) -> None:
    fake.script(raw(json.dumps(case["answer"]).encode()))
    completion = await client(fake).complete(call_of(case))
    assert kept_facts(completion) == case["expect"]
    assert completion.model == "claude-sonnet-4-5-20250929"
    assert not fake.faults


@pytest.mark.parametrize("case", cases("anthropic_streams.json"))
async def test_a_stream_becomes_deltas_and_one_completion(fake: FakeProvider, case: dict[str, Any]) -> None:
    fake.script(raw(case["stream"].encode(), content_type="text/event-stream"))
    deltas, completion = await streamed(client(fake), call_of(case))
    assert deltas == case["deltas"]
    assert "".join(deltas) == completion.text
    assert kept_facts(completion) == case["expect"]
    assert not fake.faults


@pytest.mark.parametrize("streaming", [False, True], ids=["complete", "stream"])
@pytest.mark.parametrize("case", cases("anthropic_errors.json"))
async def test_an_error_status_has_one_meaning(fake: FakeProvider, case: dict[str, Any], streaming: bool) -> None:
    body = case["body"] if isinstance(case["body"], str) else json.dumps(case["body"])
    fake.script(raw(body.encode(), status=case["status"], headers=case["headers"]))
    with pytest.raises(ProviderError) as caught:
        await (streamed(client(fake), CALL) if streaming else client(fake).complete(CALL))
    found = caught.value
    assert (found.kind, found.status) == (case["kind"], case["status"])
    assert (found.retryable, found.fallback) == (case["retryable"], case["fallback"])
    assert found.retry_after == case["retry_after"]


IN_STREAM = [
    ("overloaded_error", "Overloaded", "unavailable"),
    ("api_error", "Internal server error", "unavailable"),
    ("rate_limit_error", "Slow down", "rate_limited"),
    ("timeout_error", "Too slow", "timeout"),
    ("authentication_error", "invalid x-api-key", "auth"),
    ("billing_error", "No credit", "auth"),
    ("permission_error", "No", "auth"),
    ("request_too_large", "Too large", "context_too_long"),
    ("not_found_error", "model: claude-9", "unknown_model"),
    ("not_found_error", "No such thing", "invalid_request"),
    ("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum", "context_too_long"),
    ("invalid_request_error", "messages: no", "invalid_request"),
    ("something_new", "Well", "unavailable"),
]


@pytest.mark.parametrize(("code", "message", "kind"), IN_STREAM)
async def test_an_error_inside_a_stream_is_an_error_and_tells_the_counts(
    fake: FakeProvider, code: str, message: str, kind: str
) -> None:
    fake.script(stream_error("Hel", "lo", message=message, code=code))
    texts: list[str] = []

    async def read() -> None:
        async for event in client(fake).stream(CALL):
            assert isinstance(event, TextDelta)
            texts.append(event.text)

    with pytest.raises(ProviderError) as caught:
        await read()
    assert texts == ["Hel", "lo"]
    assert (caught.value.kind, caught.value.usage) == (kind, Usage(input=10, output=1))
    assert message in caught.value.detail


@pytest.mark.parametrize(("code", "message", "kind"), IN_STREAM)
def test_an_error_inside_a_200_is_an_error(code: str, message: str, kind: str) -> None:
    with pytest.raises(ProviderError) as caught:
        WIRE.decode(json.dumps(HOST.error(500, message, code=code)).encode(), CALL)
    assert caught.value.kind == kind


UNREADABLE = {
    "html": b"<html>hello</html>",
    "cut": b'{"content": [{"ty',
    "empty": b"",
    "list": b"[]",
    "null": b"null",
    "wrong types": b'{"content": 7}',
    "deep": b"[" * 100_000,
    "deep input": b'{"content": [{"type": "tool_use", "input": ' + b'{"a":' * 100_000,
    "not utf-8": b'{"content": [{"type": "text", "text": "\xff"}]}',
    "not utf-8 in an input": b'{"content": [{"type": "tool_use", "input": {"a": "\xff"}}]}',
    "broken input": b'{"content": [{"type": "tool_use", "input": {"a" 1}}]}',
    "error without words": b'{"type": "error"}',
}


@pytest.mark.parametrize("body", [*UNREADABLE.values(), b"{}"], ids=[*UNREADABLE.keys(), "nothing in it"])
def test_an_unreadable_answer_is_a_bad_response(body: bytes) -> None:
    with pytest.raises(ProviderError) as caught:
        WIRE.decode(body, CALL)
    assert caught.value.kind == "bad_response"
    assert len(caught.value.detail) <= 200


@pytest.mark.parametrize(
    "payload",
    [
        *(payload for name, payload in UNREADABLE.items() if "input" not in name and name != "wrong types"),
        b'{"type": "content_block_start", "content_block": {"type": "tool_use", "input": {"a": "\xff"}}}',
        b'{"type": "content_block_delta", "delta": {"text": 7}}',
    ],
)
def test_an_unreadable_event_is_a_bad_response(payload: bytes) -> None:
    assembly = WIRE.assembly(CALL)
    if payload == UNREADABLE["not utf-8"]:
        payload = b'{"type": "content_block_delta", "delta": {"text": "\xff"}}'
    with pytest.raises(ProviderError) as caught:
        assembly.add(payload)
    assert caught.value.kind == "bad_response"


@pytest.mark.parametrize(
    "events", [[], [b'{"type": "ping"}'], [b'{"type": "message_stop"}']], ids=["none", "ping", "stop"]
)
def test_a_stream_without_an_answer_broke_off(events: list[bytes]) -> None:
    assembly = WIRE.assembly(CALL)
    for event in events:
        assert assembly.add(event) == ""
    assert not assembly.finished
    assert assembly.usage is None
    with pytest.raises(ProviderError) as caught:
        assembly.completion()
    assert caught.value.kind == "connection"


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
    proxied = AnthropicWire("anthropic", URL("http://localhost:8080/a%2Fb/v1/?beta=true&x=a%20b"))
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
    assert not fake.faults
    content = fake.requests[1].body["messages"][1]["content"]
    assert [block["type"] for block in content] == ["thinking", "text", "tool_use", "tool_use"]
    assert content[0]["thinking"] == "They want to know."


KEPT = [
    {"type": "thinking", "thinking": "a", "signature": "EqEE"},
    {"type": "text", "length": 4},
    {"type": "tool_use", "id": "t1"},
    {"type": "redacted_thinking", "data": "Emwk"},
    {"type": "text", "length": 3},
    {"type": "tool_use", "id": "t2"},
    {"type": "thinking", "thinking": "b", "signature": "EqEF"},
]
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


ANSWERS = [
    Answer(text="Hello there, you.", usage=Usage(3, 4, 5, 60, 7), model="m"),
    Answer(text="", calls=[("now", "{}")], finish="tool_calls", model="m"),
    Answer(text="Hm.", calls=[("now", '{"a": 1}'), ("now", "{}")], finish="tool_calls", thinking="Now then", model="m"),
    Answer(text="It was a", finish="length", usage=Usage(input=1, output=2), model="m"),
    Answer(text="No.", finish="refusal", model="m"),
]


@pytest.mark.parametrize("answer", ANSWERS, ids=["text", "tool", "thinking", "limit", "refusal"])
def test_the_fake_says_the_same_whole_and_streamed(answer: Answer) -> None:
    whole = WIRE.decode(json.dumps(HOST.whole(answer)).encode(), CALL)
    deltas, completion = assembled(payloads(HOST.chunks(answer)))
    assert "".join(deltas) == completion.text == whole.text == answer.text
    assert completion.finish == whole.finish == answer.finish
    assert completion.usage == whole.usage == (answer.usage or Usage())
    named = [(call.name, json.loads(call.arguments)) for call in completion.tool_calls]
    assert named == [(call.name, json.loads(call.arguments)) for call in whole.tool_calls]
    assert [(name, json.loads(arguments)) for name, arguments in answer.calls] == named
    assert len(completion.extra) == len(whole.extra) == bool(answer.thinking)


@pytest.mark.parametrize("answer", ANSWERS, ids=["text", "tool", "thinking", "limit", "refusal"])
def test_a_stream_cut_before_its_end_is_a_broken_connection(answer: Answer) -> None:
    events = payloads(HOST.chunks(answer))
    for end in range(len(events) - 1):
        assembly = WIRE.assembly(CALL)
        for event in events[:end]:
            assembly.add(event)
        assert not assembly.finished
        with pytest.raises(ProviderError) as caught:
            assembly.completion()
        assert caught.value.kind == "connection"
        assert caught.value.usage == assembly.usage
        assert (assembly.usage is not None) == (end > 0 and answer.usage is not None)


@given(
    text=st.text(max_size=200),
    arguments=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=20), max_size=4),
    cuts=st.lists(st.integers(0, 200), max_size=8),
)
def test_a_stream_holds_the_same_however_it_is_cut(text: str, arguments: dict[str, Any], cuts: list[int]) -> None:
    def pieces(whole: str) -> list[str]:
        edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
        return [whole[start:end] for start, end in pairwise(edges)]

    def block(index: int, content: dict[str, Any], deltas: list[dict[str, Any]]) -> list[dict[str, Any]]:
        begin = {"type": "content_block_start", "index": index, "content_block": content}
        return [begin, *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas)]

    use = {"type": "tool_use", "id": "toolu_1", "name": "now", "input": {}}
    events = [
        *block(0, {"type": "text", "text": ""}, [{"text": piece} for piece in pieces(text)]),
        *block(1, use, [{"partial_json": piece} for piece in pieces(json.dumps(arguments))]),
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
        {"type": "message_stop"},
    ]
    deltas, completion = assembled(json.dumps(event).encode() for event in events)
    assert "".join(deltas) == completion.text == text
    assert completion.tool_calls == (ToolCall("toolu_1", "now", json.dumps(arguments)),)
    assert completion.finish == "tool_calls"


COUNTS = st.none() | st.integers(-5, 10**9)


@given(given_=COUNTS, cached=COUNTS, written=COUNTS, output=COUNTS, thinking=COUNTS)
def test_buckets_are_what_was_reported(
    given_: int | None, cached: int | None, written: int | None, output: int | None, thinking: int | None
) -> None:
    reported = {
        "input_tokens": given_,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": written,
        "output_tokens": output,
        "output_tokens_details": {"thinking_tokens": thinking},
    }
    completion = WIRE.decode(json.dumps({"content": [], "usage": reported}).encode(), CALL)
    usage = completion.usage
    sums = [max(0, count or 0) for count in (given_, cached, written, output)]
    assert [usage.input, usage.cached, usage.cache_write, usage.output] == sums
    assert usage.reasoning == min(max(0, thinking or 0), usage.output)
    assert completion.usage_reported == any(sums)


TEXTS = st.sampled_from(["", " ", "Hi", "So ", "\n"])
IDS = st.sampled_from(["call_", "functions.now:", "", "ü"])


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    """Any conversation in which every tool call is answered next, by results alone."""
    messages: list[Message] = []
    for step in range(draw(st.integers(0, 6))):
        role = draw(st.sampled_from(["system", "user", "assistant", "tools"]))
        if role != "tools":
            messages.append(Message(role, draw(TEXTS)))  # type: ignore[arg-type]
            continue
        arguments = draw(st.sampled_from(["{}", '{"a": 1}', "[]", "{oops", "", '"\\ud800"']))
        ids = [f"{draw(IDS)}{step}{n}" for n in range(draw(st.integers(1, 3)))]
        messages.append(Message("assistant", draw(TEXTS), tuple(ToolCall(id_, "a:b", arguments) for id_ in ids)))
        messages += [Message("tool", draw(TEXTS), tool_call_id=id_, failed=draw(st.booleans())) for id_ in ids]
    return tuple(messages)


@given(messages=conversations(), schema=st.sampled_from([None, SCHEMA]), has_tools=st.booleans())
def test_the_host_takes_every_conversation(
    messages: tuple[Message, ...], schema: dict[str, Any] | None, has_tools: bool
) -> None:
    encoded(replace(CALL, messages=messages, schema=schema, tools=TOOLS if has_tools else ()))


USER = {"role": "user", "content": "Hi"}
USE = {"type": "tool_use", "id": "t1", "name": "now", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "x"}
FAULTS: dict[str, dict[str, Any]] = {
    "no model": {"model": ""},
    "no limit": {"max_tokens": None},
    "temperature": {"temperature": 1.1},
    "no messages": {"messages": []},
    "unknown field": {"stream_options": {}},
    "assistant first": {"messages": [{"role": "assistant", "content": "Hi"}]},
    "role": {"messages": [USER, {"role": "tool", "content": "x"}]},
    "two of a role": {"messages": [USER, USER]},
    "blank": {"messages": [{"role": "user", "content": [text_block(" ")]}]},
    "empty": {"messages": [{"role": "user", "content": []}]},
    "call unanswered": {"messages": [USER, {"role": "assistant", "content": [USE]}, USER]},
    "call unanswered, last": {"messages": [USER, {"role": "assistant", "content": [USE]}]},
    "answer uncalled": {"messages": [{"role": "user", "content": [RESULT]}]},
    "answer after text": {
        "messages": [
            USER,
            {"role": "assistant", "content": [USE]},
            {"role": "user", "content": [text_block("x"), RESULT]},
        ]
    },
    "thinking last": {"messages": [USER, {"role": "assistant", "content": [KEPT[0]]}]},
    "thinking changed": {
        "messages": [
            USER,
            {
                "role": "assistant",
                "content": [
                    {**HOST.whole(Answer(thinking="yes"))["content"][0], "thinking": "no"},
                    text_block("x"),
                ],
            },
        ]
    },
    "blank end": {"messages": [USER, {"role": "assistant", "content": "x "}]},
    "tool name": {"tools": [{"name": "a:b", "input_schema": {"type": "object"}}]},
    "tool names": {"tools": [{"name": "a", "input_schema": {"type": "object"}}] * 2},
    "tool schema": {"tools": [{"name": "a", "input_schema": {}}]},
    "tool choice": {"tool_choice": {"type": "any"}},
}


@pytest.mark.parametrize("change", FAULTS.values(), ids=FAULTS.keys())
def test_the_fake_refuses_what_the_host_refuses(change: dict[str, Any]) -> None:
    body = {"model": "m", "max_tokens": 1, "messages": [USER]}
    headers = {"X-Api-Key": "key", "Anthropic-Version": "2023-06-01"}
    assert HOST.fault(headers, body) is None
    fault = HOST.fault(headers, body | change)
    assert fault is not None
    assert fault[0] == 400


async def test_a_call_without_a_key_is_refused_by_the_host(fake: FakeProvider) -> None:
    with pytest.raises(ProviderError) as caught:
        await client(fake, key="").complete(CALL)
    assert (caught.value.kind, caught.value.status) == ("auth", 401)
