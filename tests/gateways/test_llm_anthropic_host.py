"""What Anthropic's host takes, and that its fake refuses the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clasper.gateways.http import close_session
from clasper.gateways.llm.base import Message, ProviderError, ToolCall
from fakes.llm import Answer, FakeProvider
from fakes.llm.anthropic import FakeAnthropic
from tests.gateways.anthropic_calls import CALL, HOST, KEPT, SCHEMA, TOOLS, client, encoded, text_block


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(FakeAnthropic()) as host:
        yield host
        await close_session()


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
    assert HOST.problem(headers, body) is None
    fault = HOST.problem(headers, body | change)
    assert fault is not None
    assert fault[0] == 400


async def test_a_call_without_a_key_is_refused_by_the_host(fake: FakeProvider) -> None:
    with pytest.raises(ProviderError) as caught:
        await client(fake, key="").complete(CALL)
    assert (caught.value.kind, caught.value.status) == ("auth", 401)
