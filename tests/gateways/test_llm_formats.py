"""Hand-written answers, streams and errors of the chat-completions wire, served by the fake and read by the client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from clasper.core.usage import Usage
from clasper.gateways.http import close_session
from clasper.gateways.llm.base import Message, ModelCall, ProviderError, ToolCall, ToolSpec
from clasper.gateways.llm.exchange import MAX_LINE_BYTES, MAX_RESPONSE_BYTES, HttpProvider
from clasper.gateways.llm.openai_chat import ChatFormat
from clasper.gateways.llm.openai_chat.dialects import COMPATIBLE, OPENAI
from clasper.gateways.llm.openai_chat.request import encode_request
from clasper.gateways.llm.openai_chat.response import ChatAccumulator
from fakes.llm import FakeChat, FakeProvider, error, raw, reply
from tests.gateways.wire_formats import CALL, cases, facts, streamed

SECRET = "sk-not-a-real-key"


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(FakeChat()) as host:
        yield host
        await close_session()


def client(fake: FakeProvider) -> HttpProvider:
    return HttpProvider(ChatFormat("openai", URL(f"{fake.url}/chat/completions"), COMPATIBLE), SECRET, "")


@pytest.mark.parametrize("case", cases("chat_answers.json"))
async def test_a_whole_answer_becomes_one_completion(fake: FakeProvider, case: dict[str, Any]) -> None:
    fake.script(raw(json.dumps(case["answer"]).encode()))
    completion = await client(fake).complete(CALL)
    assert facts(completion) == case["expect"]
    assert completion.model == "gpt-4o-mini-2024-07-18"


@pytest.mark.parametrize("case", cases("chat_answers.json"))
async def test_a_stream_answered_whole_is_read_all_the_same(fake: FakeProvider, case: dict[str, Any]) -> None:
    fake.script(raw(json.dumps(case["answer"]).encode()))
    deltas, completion = await streamed(client(fake))
    assert facts(completion) == case["expect"]
    assert "".join(deltas) == ("" if completion.finish == "refusal" else completion.text)


@pytest.mark.parametrize("case", cases("chat_streams.json"))
async def test_a_stream_becomes_deltas_and_one_completion(fake: FakeProvider, case: dict[str, Any]) -> None:
    fake.script(raw(case["stream"].encode(), content_type="text/event-stream"))
    deltas, completion = await streamed(client(fake))
    assert deltas == case["deltas"]
    assert facts(completion) == case["expect"]
    assert completion.model == "gpt-4o-mini-2024-07-18"


@pytest.mark.parametrize("streaming", [False, True], ids=["complete", "stream"])
@pytest.mark.parametrize("case", cases("chat_errors.json"))
async def test_an_error_status_has_one_meaning(fake: FakeProvider, case: dict[str, Any], streaming: bool) -> None:
    body = case["body"] if isinstance(case["body"], str) else json.dumps(case["body"])
    fake.script(raw(body.encode(), status=case["status"], headers=case["headers"]))
    with pytest.raises(ProviderError) as caught:
        await (streamed(client(fake)) if streaming else client(fake).complete(CALL))
    found = caught.value
    assert (found.kind, found.status) == (case["kind"], case["status"])
    assert (found.retryable, found.fallback) == (case["retryable"], case["fallback"])
    assert found.retry_after == case["retry_after"]


IN_BODY = [
    ({"code": 429, "message": "slow down"}, "rate_limited", True),
    ({"code": "502", "message": "upstream died"}, "unavailable", True),
    ({"code": "context_length_exceeded", "message": "too long"}, "context_too_long", False),
    ({"type": "server_error", "message": "oops", "code": None}, "unavailable", True),
    ({"type": "invalid_request_error", "message": "no"}, "invalid_request", False),
    ({"message": "something"}, "unavailable", True),
    ("something", "unavailable", True),
    (["odd"], "bad_response", True),
]


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("where", ["body", "choice"])
@pytest.mark.parametrize(("inside", "kind", "retryable"), IN_BODY)
async def test_an_error_inside_a_200_is_an_error(
    fake: FakeProvider, inside: Any, kind: str, retryable: bool, where: str, content_type: str
) -> None:
    body = {"error": inside} if where == "body" else {"choices": [{"error": inside, "finish_reason": "error"}]}
    text = json.dumps(body)
    is_stream = content_type == "text/event-stream"
    fake.script(raw((f"data: {text}\n\n" if is_stream else text).encode(), content_type=content_type))
    with pytest.raises(ProviderError) as caught:
        await (streamed(client(fake)) if is_stream else client(fake).complete(CALL))
    assert (caught.value.kind, caught.value.retryable) == (kind, retryable)


UNREADABLE = {
    "html": b"<html>hello</html>",
    "cut": b'{"choices": [{"mess',
    "empty": b"",
    "list": b"[]",
    "no choices": b'{"choices": []}',
    "null": b"null",
    "wrong types": b'{"choices": [{"message": {"content": 7}}]}',
    "deep": b"[" * 100_000,
    "not utf-8": b'{"choices": [{"message": {"content": "\xff"}}]}',
    "too large": b" " * (MAX_RESPONSE_BYTES + 1),
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_an_unreadable_answer_is_a_bad_response(fake: FakeProvider, body: bytes) -> None:
    fake.script(raw(body))
    with pytest.raises(ProviderError) as caught:
        await client(fake).complete(CALL)
    assert (caught.value.kind, caught.value.retryable) == ("bad_response", True)


UNREADABLE_STREAMS = {
    "html": b"<html>hello</html>\n",
    "broken chunk": b'data: {"choices": [{"del\n\n',
    "endless line": b"data: " + b"x" * (MAX_LINE_BYTES + 10),
    "binary": b"data: \xff\xfe\n\n",
}


@pytest.mark.parametrize("body", UNREADABLE_STREAMS.values(), ids=UNREADABLE_STREAMS.keys())
async def test_an_unreadable_stream_is_a_bad_response(fake: FakeProvider, body: bytes) -> None:
    fake.script(raw(body, content_type="text/event-stream"))
    with pytest.raises(ProviderError) as caught:
        await streamed(client(fake))
    assert caught.value.kind == "bad_response"


@pytest.mark.parametrize("body", [b"", b": nothing\n\n", b"data: [DONE]\n\n"])
async def test_a_stream_without_an_answer_broke_off(fake: FakeProvider, body: bytes) -> None:
    fake.script(raw(body, content_type="text/event-stream"))
    with pytest.raises(ProviderError) as caught:
        await streamed(client(fake))
    assert (caught.value.kind, caught.value.retryable) == ("connection", True)


async def test_messages_for_callers_hold_nothing_of_the_providers_words(fake: FakeProvider) -> None:
    words = f"key {SECRET} at /srv/app " + "x" * 5000
    fake.script(error(500, {"error": {"message": words}}))
    with pytest.raises(ProviderError) as caught:
        await client(fake).complete(CALL)
    assert len(str(caught.value)) <= 200
    assert "/srv/app" not in str(caught.value)
    assert SECRET not in caught.value.detail
    assert "/srv/app" in caught.value.detail
    assert len(caught.value.detail) <= 2000


async def test_the_request_says_what_the_call_says(fake: FakeProvider) -> None:
    call = ModelCall(
        model="gpt-4o-mini",
        messages=(
            Message("system", "Be brief."),
            Message("user", "Look up 1042"),
            Message("assistant", "", (ToolCall("call_1", "orders:lookup", '{"order":1042}'),)),
            Message("tool", "shipped", tool_call_id="call_1"),
            Message("system", "Summary so far."),
            Message("user", "Thanks"),
        ),
        tools=(ToolSpec("orders:lookup", "Finds an order.", {"type": "object", "properties": {}}),),
        max_output_tokens=64,
        temperature=0.4,
        timeout=5,
    )
    fake.script(reply("Fine."))
    await streamed(client(fake), call)
    (exchange,) = fake.requests
    assert exchange.headers["Authorization"] == f"Bearer {SECRET}"
    assert exchange.body == {
        "model": "gpt-4o-mini",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Look up 1042"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "orders_lookup", "arguments": '{"order":1042}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "shipped"},
            {"role": "system", "content": "Summary so far."},
            {"role": "user", "content": "Thanks"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "orders_lookup",
                    "description": "Finds an order.",
                    "parameters": {"type": "object", "properties": {}},
                },
            }
        ],
        "max_tokens": 64,
        "temperature": 0.4,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_openais_own_host_gets_its_own_dialect() -> None:
    tools = tuple(ToolSpec(name, "", {}) for name in ("orders:lookup", "orders_lookup", "x" * 80, "plain"))
    history = (Message("assistant", "", (ToolCall("call_1", "orders:lookup", ""),)),)
    call = ModelCall(model="o3-mini", messages=history, tools=tools, max_output_tokens=64, temperature=0.4, timeout=5)
    body = json.loads(encode_request(call, OPENAI, stream=False, provider="openai"))
    assert body["max_completion_tokens"] == 64
    assert not {"max_tokens", "temperature", "stream"} & body.keys()
    names = [tool["function"]["name"] for tool in body["tools"]]
    assert len(set(names)) == 4
    assert all(len(name) <= 64 and name.replace("_", "").replace("-", "").isalnum() for name in names)
    assert names[1:] == ["orders_lookup", "x" * 64, "plain"]
    assert body["messages"][0]["tool_calls"][0]["function"] == {"name": names[0], "arguments": "{}"}

    answer = {"choices": [{"message": {"tool_calls": [{"id": "c", "function": {"name": names[0]}}]}}]}
    completion = ChatAccumulator(call, "openai").whole(json.dumps(answer).encode())
    assert completion.tool_calls[0].name == "orders:lookup"


def test_what_a_provider_wants_back_goes_back_to_it_alone() -> None:
    signed = {"google": {"thought_signature": "AbC="}}
    call_piece = {"id": "c1", "function": {"name": "a", "arguments": "{}"}, "extra_content": signed}
    answer = {"choices": [{"message": {"content": "x", "extra_content": signed, "tool_calls": [call_piece]}}]}
    completion = ChatAccumulator(CALL, "openai").whole(json.dumps(answer).encode())
    history = (Message("assistant", completion.text, completion.tool_calls, extra=completion.extra),)
    call = ModelCall(model="m", messages=history, max_output_tokens=1, timeout=1)
    (message,) = json.loads(encode_request(call, COMPATIBLE, stream=False, provider="openai"))["messages"]
    assert message["extra_content"] == message["tool_calls"][0]["extra_content"] == signed
    (message,) = json.loads(encode_request(call, COMPATIBLE, stream=False, provider="groq"))["messages"]
    assert "extra_content" not in json.dumps(message)


async def test_ids_made_up_stay_unique_through_a_conversation(fake: FakeProvider) -> None:
    earlier = Message("assistant", "", (ToolCall("call_0", "a", "{}"), ToolCall("call_1", "a", "{}")))
    call = ModelCall(model="m", messages=(earlier,), max_output_tokens=1, timeout=5)
    answer = {"choices": [{"message": {"tool_calls": [{"function": {"name": "a", "arguments": "{}"}}]}}]}
    fake.script(raw(json.dumps(answer).encode()))
    completion = await client(fake).complete(call)
    assert completion.tool_calls[0].id == "call_2"


async def test_a_large_conversation_is_sent_whole(fake: FakeProvider) -> None:
    text = "x" * (3 * 1024 * 1024)
    await client(fake).complete(ModelCall(model="m", messages=(Message("user", text),), max_output_tokens=1, timeout=5))
    assert fake.requests[0].body["messages"][0]["content"] == text


async def test_what_json_cannot_carry_is_refused_before_it_is_sent(fake: FakeProvider) -> None:
    broken = ModelCall(model="m", messages=(Message("user", "\ud800"),), max_output_tokens=1, timeout=5)
    with pytest.raises(ProviderError) as caught:
        await client(fake).complete(broken)
    assert caught.value.kind == "invalid_request"
    assert not fake.requests


@given(text=st.text(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=8))
def test_a_stream_holds_the_same_text_however_it_is_cut(text: str, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    accumulator = ChatAccumulator(CALL, "openai")
    pieces = [text[start:end] for start, end in pairwise(edges)]
    got = [accumulator.add(json.dumps({"choices": [{"delta": {"content": piece}}]}).encode()) for piece in pieces]
    accumulator.add(b'{"choices": [{"delta": {}, "finish_reason": "stop"}]}')
    assert got == pieces
    assert accumulator.completion().text == text


@given(
    prompt=st.integers(0, 10**6),
    cached=st.integers(-5, 10**6),
    written=st.integers(-5, 10**6),
    completion=st.integers(0, 10**6),
    total=st.integers(0, 3 * 10**6),
    reasoning=st.integers(-5, 10**6),
)
def test_buckets_are_disjoint_and_never_below_what_was_reported(
    prompt: int, cached: int, written: int, completion: int, total: int, reasoning: int
) -> None:
    reported = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    body = json.dumps({"choices": [{"message": {"content": "x"}}], "usage": reported}).encode()
    completion_ = ChatAccumulator(CALL, "openai").whole(body)
    usage = completion_.usage
    if not completion_.usage_reported:
        assert (prompt, completion) == (0, 0)
        assert usage == Usage()
        return
    assert usage.prompt_tokens == prompt
    assert usage.output >= completion
    assert usage.total_tokens == max(prompt + completion, total)
    assert 0 <= usage.reasoning <= usage.output
    assert min(usage.input, usage.cached, usage.cache_write) >= 0


async def test_a_stream_longer_than_any_answer_is_given_up(fake: FakeProvider) -> None:
    line = b'data: {"choices": [{"index": 0, "delta": {"content": "' + b"x" * 500_000 + b'"}}]}\n\n'
    fake.script(raw(line * 10, content_type="text/event-stream"))
    with pytest.raises(ProviderError) as caught:
        await streamed(client(fake))
    assert (caught.value.kind, caught.value.detail) == ("bad_response", f"over {MAX_RESPONSE_BYTES} characters")


async def test_counts_that_came_before_a_failure_are_kept(fake: FakeProvider) -> None:
    counted = b'data: {"choices": [], "usage": {"prompt_tokens": 43, "completion_tokens": 10}}\n\n'
    fake.script(raw(counted + b"data: {not json\n\n", content_type="text/event-stream"))
    with pytest.raises(ProviderError) as caught:
        await streamed(client(fake))
    assert caught.value.usage == Usage(input=43, output=10)
