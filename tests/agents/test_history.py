"""The turns of a conversation: which lists of them make sense, and one system prompt for all of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.agents.domain.requests import SendBody, Turn, history_errors
from apps.agents.engine.plan import one_system
from tests.bodies import errors_of

BODY = {"user_id": "u", "session_key": "user:u:agent", "message": "x"}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["tool", "assistant", "user"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "tool_calls", "tool_call_id", "id", "function"]), inner, max_size=4
        )
    ),
    max_leaves=15,
)


def say(role: str, content: str = "x") -> dict[str, Any]:
    return {"role": role, "content": content}


def call(*ids: str, content: str | None = None, name: str = "clock") -> dict[str, Any]:
    calls = [{"id": each, "type": "function", "function": {"name": name, "arguments": "{}"}} for each in ids]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def answer(call_id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "12:00"}


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Conversations in which every call is answered, in any order and with system turns anywhere."""
    turns: list[dict[str, Any]] = []
    for n in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["user", "assistant", "system", "calls"]))
        if kind != "calls":
            turns.append(say(kind, f"{kind} {n}"))
            continue
        ids = [f"{n}-{each}" for each in range(draw(st.integers(1, 3)))]
        turns.append(call(*ids))
        for each in draw(st.permutations(ids)):
            turns += [say("system")] * draw(st.integers(0, 1))
            turns.append(answer(each))
    return turns


@given(histories())
def test_a_history_in_order_has_no_errors(turns: list[dict[str, Any]]) -> None:
    assert history_errors(turns) == []
    assert len(msgspec.convert(turns, list[Turn])) == len(turns)


REQUIRED = "This field is required."
BAD: list[tuple[str, list[Any], list[str]]] = [
    ("result of nothing", [answer("a")], ["[0]: The assistant turn before it made no call a."]),
    (
        "result of an older turn",
        [call("a"), answer("a"), say("assistant"), answer("a")],
        ["[3]: The assistant turn before it made no call a."],
    ),
    (
        "result after the user spoke",
        [call("a"), say("user"), answer("a")],
        ["[0].tool_calls[0]: No tool turn answers the call a.", "[2]: The assistant turn before it made no call a."],
    ),
    ("answered twice", [call("a"), answer("a"), answer("a")], ["[2]: The call a is answered already."]),
    ("never answered", [call("a", "b"), answer("a")], ["[0].tool_calls[1]: No tool turn answers the call b."]),
    (
        "same id twice",
        [call("a", "a"), answer("a")],
        ["[0].tool_calls[1].id: Another call of this turn has the same id."],
    ),
    ("result without an id", [say("tool")], [f"[0].tool_call_id: {REQUIRED}"]),
    (
        "user answers a call",
        [{**say("user"), "tool_call_id": "a"}],
        ["[0].tool_call_id: Only a tool turn answers a call."],
    ),
    ("user calls a tool", [{**call("a"), **say("user")}], ["[0].tool_calls: Only an assistant turn calls tools."]),
    ("no content", [{"role": "user"}], [f"[0].content: {REQUIRED}"]),
    ("null content", [say("user"), {"role": "assistant", "content": None}], [f"[1].content: {REQUIRED}"]),
    ("no calls, no content", [{"role": "assistant", "tool_calls": []}], [f"[0].content: {REQUIRED}"]),
    ("result without content", [call("a"), {"role": "tool", "tool_call_id": "a"}], [f"[1].content: {REQUIRED}"]),
    (
        "content in parts",
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        ["[0].content: Only text is taken, as one string; images and files are not supported."],
    ),
    (
        "all at once",
        [answer("a"), {"role": "user"}, call("b")],
        [
            "[0]: The assistant turn before it made no call a.",
            f"[1].content: {REQUIRED}",
            "[2].tool_calls[0]: No tool turn answers the call b.",
        ],
    ),
]


@pytest.mark.parametrize(("turns", "errors"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_history_that_is_not_valid(turns: list[Any], errors: list[str]) -> None:
    assert history_errors(turns) == errors
    found = errors_of(SendBody, {**BODY, "messages": turns})
    assert set(errors) <= set(found["messages"])


@pytest.mark.parametrize("messages", [None, "x", 1, {}, [], ["x", None, 1]], ids=repr)
def test_what_types_report_is_not_reported_again(messages: Any) -> None:
    assert history_errors(messages) == []


TYPES: list[tuple[str, dict[str, Any]]] = [
    ("role", {"role": "robot", "content": "x"}),
    ("content", {"role": "user", "content": 1}),
    ("id empty", {"role": "tool", "content": "x", "tool_call_id": ""}),
    ("call without a function", {"role": "assistant", "tool_calls": [{"id": "a", "type": "function"}]}),
    ("call of another type", {"role": "assistant", "tool_calls": [{**call("a")["tool_calls"][0], "type": "mcp"}]}),
    (
        "arguments no text",
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "clock", "arguments": {}}}]},
    ),
]


@pytest.mark.parametrize("turn", [case[1] for case in TYPES], ids=[case[0] for case in TYPES])
def test_types_of_a_turn(turn: dict[str, Any]) -> None:
    errors = errors_of(SendBody, {**BODY, "messages": [say("user"), turn]})
    assert errors.keys() == {"messages"}
    assert all(text.startswith("[1]") for text in errors["messages"])


@given(JSON)
def test_any_value_has_errors_or_none(messages: Any) -> None:
    errors = history_errors(messages)
    assert all(problem.startswith("[") for problem in errors)
    if isinstance(messages, list) and not errors:
        try:
            turns = msgspec.convert(messages, list[Turn])
        except msgspec.ValidationError:
            return
        assert all(turn.content is not None or turn.tool_calls for turn in turns)


def test_one_system_prompt() -> None:
    turns = msgspec.convert(
        [say("system", "A"), say("user", "1"), call("a"), say("system", " "), answer("a"), say("system", "B")],
        list[Turn],
    )
    system, others = one_system("You help.", turns)
    assert system == "You help.\n\nA\n\nB"
    assert [turn.role for turn in others] == ["user", "assistant", "tool"]
    assert one_system("", turns)[0] == "A\n\nB"
    assert one_system("You help.", ()) == ("You help.", ())


@given(histories())
def test_no_turn_is_lost(raw: list[dict[str, Any]]) -> None:
    turns = msgspec.convert(raw, list[Turn])
    system, others = one_system("S", turns)
    assert list(others) == [turn for turn in turns if turn.role != "system"]
    assert system == "\n\n".join(["S", *(turn.text for turn in turns if turn.role == "system")])
