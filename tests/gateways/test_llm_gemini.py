"""The generateContent wire: hand-written answers, streams and errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clasper.core.usage import Usage
from clasper.gateways.http import close_session
from clasper.gateways.llm.base import Completion, Message, ProviderError, TextDelta, ToolCall
from fakes.llm import FakeProvider, half_stream, raw, stream_error
from fakes.llm.gemini import FakeGemini
from tests.gateways.gemini_calls import (
    CALL,
    CLOCK,
    ORDER,
    WIRE,
    answered,
    asked,
    both,
    chunk,
    client,
    contents,
    conversation,
    signed,
)
from tests.gateways.wire_formats import cases, facts, streamed


def kept_facts(completion: Completion) -> dict[str, Any]:
    return facts(completion, extra=completion.extra)


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(FakeGemini()) as host:
        yield host
        await close_session()


class TestAnswers:
    @pytest.mark.parametrize("case", cases("gemini_answers.json"))
    def test_a_whole_answer_becomes_one_completion(self, case: dict[str, Any]) -> None:
        completion = WIRE.decode(json.dumps(case["answer"]).encode(), CALL)
        assert kept_facts(completion) == case["expect"]
        assert completion.model == "gemini-2.5-flash"

    @pytest.mark.parametrize("case", cases("gemini_answers.json"))
    def test_blanks_in_the_body_change_nothing(self, case: dict[str, Any]) -> None:
        assert kept_facts(WIRE.decode(json.dumps(case["answer"], indent=2).encode(), CALL)) == case["expect"]

    @pytest.mark.parametrize("case", cases("gemini_streams.json"))
    async def test_a_stream_becomes_deltas_and_one_completion(self, fake: FakeProvider, case: dict[str, Any]) -> None:
        fake.script(raw(case["stream"].encode(), content_type="text/event-stream"))
        deltas, completion = await streamed(client(fake))
        assert deltas == case["deltas"]
        assert kept_facts(completion) == case["expect"]
        assert completion.model == "gemini-2.5-flash"

    def test_names_of_tools_come_back_as_ours_and_ids_count_on(self) -> None:
        part = {"functionCall": {"name": "shop_order", "args": {}}}
        body = {"candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}]}
        earlier = Message("assistant", "", (ToolCall("call_0", "clock", "{}"), ToolCall("x", "clock", "{}")))
        call = conversation(Message("user", "Hi"), earlier, tools=(ORDER, CLOCK))
        completion = WIRE.decode(json.dumps(body).encode(), call)
        assert completion.tool_calls == (ToolCall("call_2", "shop:order", "{}"),)
        assert completion.model == call.model

    def test_a_whole_answer_without_candidates_is_unreadable_but_counted(self) -> None:
        body = b'{"usageMetadata": {"promptTokenCount": 7, "totalTokenCount": 7}, "promptFeedback": {}}'
        with pytest.raises(ProviderError) as caught:
            WIRE.decode(body, CALL)
        assert (caught.value.kind, caught.value.usage) == ("bad_response", Usage(input=7))

    UNREADABLE = {
        "html": b"<html>hello</html>",
        "cut": b'{"candidates": [{"cont',
        "empty": b"",
        "a list": b"[]",
        "a list of answers": b'[{"candidates": []}]',
        "no candidates": b'{"candidates": []}',
        "null": b"null",
        "wrong types": b'{"candidates": [{"content": {"parts": [{"text": 7}]}}]}',
        "deep": b"[" * 100_000,
        "deep arguments": b'{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":' + b"[" * 100_000,
        "not utf-8": b'{"candidates": [{"content": {"parts": [{"text": "\xff"}]}}]}',
        "arguments not utf-8": b'{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":"\xff"}}]}}]}',
        "odd error": b'{"error": ["odd"]}',
    }

    @pytest.mark.parametrize("name", UNREADABLE)
    def test_what_cannot_be_read_says_its_beginning(self, name: str) -> None:
        body = self.UNREADABLE[name]
        with pytest.raises(ProviderError) as caught:
            WIRE.decode(body, CALL)
        assert caught.value.kind == "bad_response"
        assert len(caught.value.detail) <= 200


class TestStreams:
    @given(st.lists(st.tuples(st.text(max_size=5), st.sampled_from(["", "c2ln", "c2lnbg=="])), max_size=12))
    def test_cuts_in_the_text_change_nothing(self, pieces: list[tuple[str, str]]) -> None:
        accumulator = WIRE.accumulator(CALL)
        heard = [accumulator.add(chunk([signed(text, mark)])) for text, mark in pieces]
        accumulator.add(chunk([{"text": ""}], finish="STOP"))
        completion = accumulator.completion()
        whole = WIRE.decode(chunk([signed(text, mark) for text, mark in pieces], finish="STOP"), CALL)
        assert "".join(heard) == completion.text == "".join(text for text, _ in pieces)
        assert kept_facts(completion) == kept_facts(whole)

    @given(st.lists(st.tuples(st.text(max_size=5), st.sampled_from(["", "c2ln", "c2lnbg=="])), max_size=12))
    def test_signed_parts_go_back_as_they_came(self, pieces: list[tuple[str, str]]) -> None:
        parts = [signed(text, mark) for text, mark in pieces]
        parts.append({"functionCall": {"name": "clock", "args": {"a": 1}, "id": "x1"}, "thoughtSignature": "c2lnMg=="})
        completion = WIRE.decode(chunk(parts, finish="STOP"), CALL)
        sent = contents(Message("user", "Hi"), answered(completion))[1]["parts"]
        assert [part for part in sent if "thoughtSignature" in part] == [p for p in parts if "thoughtSignature" in p]
        assert "".join(part.get("text", "") for part in sent) == completion.text
        assert {"text": ""} not in sent

    @pytest.mark.parametrize("case", cases("gemini_streams.json"))
    def test_a_stream_cut_before_its_end_is_a_broken_connection(self, case: dict[str, Any]) -> None:
        payloads = [line[5:].strip().encode() for line in case["stream"].splitlines() if line.startswith("data:")]
        for count in range(len(payloads)):
            accumulator = WIRE.accumulator(CALL)
            for payload in payloads[:count]:
                accumulator.add(payload)
            if accumulator.finished:
                break
            with pytest.raises(ProviderError) as caught:
                accumulator.completion()
            assert caught.value.kind == "connection"
            assert caught.value.usage == accumulator.usage

    def test_a_stream_never_says_that_it_is_done(self) -> None:
        accumulator = WIRE.accumulator(CALL)
        accumulator.add(chunk([{"text": "Hi"}]))
        assert (accumulator.finished, accumulator.done, accumulator.usage) == (False, False, None)
        accumulator.add(chunk([], finish="STOP", usage={"promptTokenCount": 3, "totalTokenCount": 4}))
        assert (accumulator.finished, accumulator.done, accumulator.usage) == (True, False, Usage(input=3, output=1))

    @pytest.mark.parametrize("abort", [True, False], ids=["reset", "ended"])
    async def test_half_a_stream_is_a_broken_connection(self, fake: FakeProvider, abort: bool) -> None:
        fake.script(half_stream(2, abort=abort))
        with pytest.raises(ProviderError) as caught:
            await streamed(client(fake))
        assert caught.value.kind == "connection"


class TestErrors:
    @both
    @pytest.mark.parametrize("case", cases("gemini_errors.json"))
    async def test_an_error_status_has_one_meaning(
        self, fake: FakeProvider, case: dict[str, Any], streaming: bool
    ) -> None:
        body = case["body"] if isinstance(case["body"], str) else json.dumps(case["body"])
        fake.script(raw(body.encode(), status=case["status"], headers=case["headers"]))
        with pytest.raises(ProviderError) as caught:
            await asked(client(fake), CALL, streaming=streaming)
        found = caught.value
        assert (found.kind, found.status) == (case["kind"], case["status"])
        assert (found.retryable, found.fallback) == (case["retryable"], case["fallback"])
        assert found.retry_after == case["retry_after"]

    QUOTA = {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": "4s"}]}

    @pytest.mark.parametrize("body", [{"error": QUOTA}, [{"error": QUOTA}]], ids=["object", "list"])
    def test_an_error_inside_a_200_is_an_error(self, body: Any) -> None:
        with pytest.raises(ProviderError) as caught:
            WIRE.decode(json.dumps(body).encode(), CALL)
        assert (caught.value.kind, caught.value.status, caught.value.retry_after) == ("rate_limited", 429, 4.0)

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            ("", "unavailable"),
            ("INTERNAL", "unavailable"),
            ("DEADLINE_EXCEEDED", "timeout"),
            ("NOT_FOUND", "unknown_model"),
        ],
    )
    async def test_an_error_inside_a_stream_is_an_error(self, fake: FakeProvider, code: str, kind: str) -> None:
        fake.script(stream_error("Once ", "upon ", message="No more.", code=code))
        events = client(fake).stream(CALL)
        assert [await anext(events) for _ in range(2)] == [TextDelta("Once "), TextDelta("upon ")]
        with pytest.raises(ProviderError) as caught:
            await anext(events)
        assert caught.value.kind == kind

    def test_an_error_inside_a_stream_keeps_the_counts(self) -> None:
        accumulator = WIRE.accumulator(CALL)
        accumulator.add(chunk([{"text": "Hi"}], usage={"promptTokenCount": 9, "totalTokenCount": 9}))
        with pytest.raises(ProviderError) as caught:
            accumulator.add(b'{"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}')
        assert (caught.value.kind, caught.value.usage) == ("unavailable", Usage(input=9))
