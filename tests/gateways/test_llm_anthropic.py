"""Hand-written answers, streams and errors of Anthropic's messages wire."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clasper.core.usage import Usage
from clasper.gateways.http import close_session
from clasper.gateways.llm.base import Completion, ModelCall, ProviderError, TextDelta, ToolCall
from fakes.llm import Answer, FakeProvider, raw, stream_error
from fakes.llm.anthropic import FakeAnthropic
from tests.gateways.anthropic_calls import CALL, HOST, TOOLS, WIRE, client
from tests.gateways.wire_formats import cases, facts, streamed


def kept_facts(completion: Completion) -> dict[str, Any]:
    return facts(completion, kept=completion.extra.get("anthropic"))


def call_of(case: dict[str, Any]) -> ModelCall:
    return replace(CALL, schema=case["schema"]) if "schema" in case else replace(CALL, tools=TOOLS)


def payloads(chunks: Iterable[bytes]) -> list[bytes]:
    return [line[5:].strip() for chunk in chunks for line in chunk.splitlines() if line.startswith(b"data:")]


def assembled(events: Iterable[bytes], call: ModelCall = CALL) -> tuple[list[str], Completion]:
    accumulator = WIRE.accumulator(call)
    deltas = [text for event in events if (text := accumulator.add(event))]
    assert accumulator.done
    return deltas, accumulator.completion()


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(FakeAnthropic()) as host:
        yield host
        await close_session()


@pytest.mark.parametrize("case", cases("anthropic_answers.json"))
async def test_a_whole_answer_becomes_one_completion(fake: FakeProvider, case: dict[str, Any]) -> None:
    fake.script(raw(json.dumps(case["answer"]).encode()))
    completion = await client(fake).complete(call_of(case))
    assert kept_facts(completion) == case["expect"]
    assert completion.model == "claude-sonnet-4-5-20250929"
    assert not fake.problems


@pytest.mark.parametrize("case", cases("anthropic_streams.json"))
async def test_a_stream_becomes_deltas_and_one_completion(fake: FakeProvider, case: dict[str, Any]) -> None:
    fake.script(raw(case["stream"].encode(), content_type="text/event-stream"))
    deltas, completion = await streamed(client(fake), call_of(case))
    assert deltas == case["deltas"]
    assert "".join(deltas) == completion.text
    assert kept_facts(completion) == case["expect"]
    assert not fake.problems


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
async def test_an_error_inside_a_stream_is_an_error_and_reports_the_counts(
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
    accumulator = WIRE.accumulator(CALL)
    if payload == UNREADABLE["not utf-8"]:
        payload = b'{"type": "content_block_delta", "delta": {"text": "\xff"}}'
    with pytest.raises(ProviderError) as caught:
        accumulator.add(payload)
    assert caught.value.kind == "bad_response"


@pytest.mark.parametrize(
    "events", [[], [b'{"type": "ping"}'], [b'{"type": "message_stop"}']], ids=["none", "ping", "stop"]
)
def test_a_stream_without_an_answer_broke_off(events: list[bytes]) -> None:
    accumulator = WIRE.accumulator(CALL)
    for event in events:
        assert accumulator.add(event) == ""
    assert not accumulator.finished
    assert accumulator.usage is None
    with pytest.raises(ProviderError) as caught:
        accumulator.completion()
    assert caught.value.kind == "connection"


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
        accumulator = WIRE.accumulator(CALL)
        for event in events[:end]:
            accumulator.add(event)
        assert not accumulator.finished
        with pytest.raises(ProviderError) as caught:
            accumulator.completion()
        assert caught.value.kind == "connection"
        assert caught.value.usage == accumulator.usage
        assert (accumulator.usage is not None) == (end > 0 and answer.usage is not None)


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
