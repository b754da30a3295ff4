"""Compaction: where a conversation is cut, and how the older part is told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.agents.domain.compaction import (
    SUMMARY_HEADING,
    CompactBody,
    compact_instructions,
    compact_message,
    split,
    summary_turn,
)
from apps.agents.domain.requests import CalledFunction, Turn, TurnToolCall
from clasper.core.validation import read
from tests.agents.test_history import answer, call, histories, say
from tests.bodies import errors_of


def turns(*raw: dict[str, Any]) -> list[Turn]:
    return read(CompactBody, {"messages": list(raw)}).messages


SIX = [say(role, f"{role} {n}") for n in range(3) for role in ("user", "assistant")]
CALLING = [say("user", "Time?"), call("a", "b"), answer("a"), answer("b"), say("assistant", "Noon."), say("user", "Ty")]
SUMMARY = msgspec.to_builtins(summary_turn("Earlier."))

CUTS: list[tuple[str, list[dict[str, Any]], int, int]] = [
    ("as documented", SIX, 2, 4),
    ("nothing kept", SIX, 0, 6),
    ("as many as there are", SIX, 6, 0),
    ("more than there are", SIX, 100, 0),
    ("after the results", CALLING, 2, 4),
    ("between the results", CALLING, 3, 1),
    ("between call and results", CALLING, 4, 1),
    ("before the call", CALLING, 5, 1),
    ("calls, nothing kept", CALLING, 0, 6),
    ("all of it hangs together", CALLING[1:4], 1, 0),
    ("system turn among the results", [say("user", "x"), call("a"), say("system", "s"), answer("a")], 1, 1),
    ("system turn before the results", [say("user", "x"), call("a"), say("system", "s"), answer("a")], 2, 1),
    ("earlier summary", [SUMMARY, *SIX], 2, 5),
]


@pytest.mark.parametrize(("raw", "keep", "cut"), [case[1:] for case in CUTS], ids=[case[0] for case in CUTS])
def test_where_it_is_cut(raw: list[dict[str, Any]], keep: int, cut: int) -> None:
    given_turns = turns(*raw)
    assert split(given_turns, keep) == (tuple(given_turns[:cut]), tuple(given_turns[cut:]))


@given(histories(), st.integers(0, 12))
def test_a_cut_keeps_order_and_parts_no_call_from_its_results(raw: list[dict[str, Any]], keep: int) -> None:
    history = turns(*raw)
    older, recent = split(history, keep)
    assert [*older, *recent] == history
    assert len(recent) >= min(keep, len(history))
    if keep >= len(history):
        assert not older
    if keep == 0:
        assert not recent
    for side in (older, recent):
        called = [each.id for turn in side for each in turn.tool_calls or ()]
        assert sorted(called) == sorted(turn.tool_call_id or "" for turn in side if turn.role == "tool")


def test_the_transcript() -> None:
    history = [
        Turn(role="system", content=SUMMARY["content"]),
        Turn(role="user", content="What time\nis it?"),
        Turn(
            role="assistant",
            content="Let me see.",
            tool_calls=[TurnToolCall(id="1", function=CalledFunction(name="clock", arguments='{"zone": "UTC"}'))],
        ),
        Turn(role="tool", content="12:00", tool_call_id="1"),
        Turn(role="tool", content="?", tool_call_id="2"),
        Turn(role="assistant", content="Noon."),
    ]
    assert compact_message(history) == (
        "SYSTEM: [Previous conversation summary]\nEarlier.\n\n"
        "USER: What time\nis it?\n\n"
        "ASSISTANT: Let me see.\n\n"
        'ASSISTANT called clock({"zone": "UTC"})\n\n'
        "TOOL clock: 12:00\n\n"
        "TOOL: ?\n\n"
        "ASSISTANT: Noon."
    )
    assert compact_message([history[2]]).startswith("ASSISTANT: Let me see.")
    assert compact_message(turns(call("a"), answer("a"))[:1]) == "ASSISTANT called clock({})"


def test_own_instructions_take_the_place_of_the_usual_ones() -> None:
    usual, own = compact_instructions(" "), compact_instructions("Focus on prices.")
    assert "decisions" in usual
    assert own.endswith("Focus on prices.")
    assert "decisions" not in own
    assert SUMMARY_HEADING in own


def test_the_summary_can_be_sent_back() -> None:
    summary = msgspec.to_builtins(summary_turn("So far."))
    assert summary == {"role": "system", "content": "[Previous conversation summary]\nSo far."}
    assert turns(summary)[0].role == "system"


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("no turns", {"messages": []}, "messages"),
    ("turns missing", {"messages": None}, "messages"),
    ("result without a call", {"messages": [answer("a")]}, "messages"),
    ("fewer than none kept", {"keep_recent": -1}, "keep_recent"),
    ("half kept", {"keep_recent": 1.5}, "keep_recent"),
    ("instructions no text", {"instructions": 1}, "instructions"),
    ("role climbs", {"agent_role": "a/b"}, "agent_role"),
]


@pytest.mark.parametrize(("change", "field"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_an_invalid_body(change: dict[str, Any], field: str) -> None:
    raw = {"messages": SIX, **change}
    assert errors_of(CompactBody, raw).keys() == {field}


def test_a_good_body() -> None:
    body = read(CompactBody, {"messages": SIX, "instructions": "Focus", "unknown": 1})
    assert (len(body.messages), body.keep_recent) == (6, 2)
