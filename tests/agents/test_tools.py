"""The tool loop: what is offered, what is executed, what is refused, and what the model is told each time.

Against the embedded control plane and its demo shop, and against the fake one where timing or size matters.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from fakes.llm import Exchange, FakeProvider, reply, tool_calls
from tests.agents.backend import TOOLS, Backend, answers, hangs, raw
from tests.agents.ledger import assert_balanced, nano
from tests.world import ACME, Server, tenant_key

ORDER = ("orders:lookup", '{"order_id": "ORD-1002"}')
USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


@pytest.fixture
def wide(workspace: Path) -> Path:
    """A second skill, which grants a namespace and a tool that no control plane has."""
    path = workspace / "skills" / "wide" / "SKILL.md"
    path.parent.mkdir()
    path.write_text(
        "---\nname: wide\nversion: 1.0.0\ndescription: Wide.\n"
        'metadata:\n  clasper:\n    tools: ["customers:*", "ghost:walk"]\n---\nUse what you need.\n'
    )
    return path


def offered(exchange: Exchange) -> list[str]:
    """The tools that a model call offers, by the names the control plane knows."""
    return [original(each["function"]["name"]) for each in exchange.body.get("tools", [])]


def original(wire_name: str) -> str:
    """Providers allow no colon in a tool's name; nothing of ours holds an underscore."""
    return wire_name.replace("__", ":").replace("_", ":")


def told(exchange: Exchange) -> list[Any]:
    """What the tools of the conversation answered, as the model reads it."""
    return [
        msgspec.json.decode(message["content"]) for message in exchange.body["messages"] if message["role"] == "tool"
    ]


def tool_steps(trace: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for step in trace["steps"] if step["type"] == "tool_call"]


def tool_audit(server: Server, trace_id: str) -> list[dict[str, Any]]:
    return [entry for entry in server.audit(trace_id=trace_id) if entry["event_type"].startswith("tool.")]


def test_a_granted_tool_runs(server: Server, openai: FakeProvider) -> None:
    openai.script(tool_calls(ORDER, text="Let me look."), reply("It is on its way."))
    body = server.send("Where is my parcel?").json()
    assert body["response"] == "It is on its way."
    first, second = openai.requests
    assert offered(first) == ["orders:lookup"]
    (result,) = told(second)
    assert result["order_id"] == "ORD-1002"
    said = [message for message in second.body["messages"] if message["role"] == "assistant"]
    assert said[0]["content"] == "Let me look."
    trace = server.trace(body["trace_id"])
    (step,) = tool_steps(trace)
    assert (step["tool_name"], step["status"], step["permitted"], step["success"]) == (
        "orders:lookup",
        "ok",
        True,
        True,
    )
    assert step["input"] == {"order_id": "ORD-1002"}
    assert step["output"]["order_id"] == "ORD-1002"
    (entry,) = tool_audit(server, body["trace_id"])
    assert entry["event_type"] == "tool.call"
    assert {**entry["details"], "duration_ms": 0} == {
        "tool": "orders:lookup",
        "status": "ok",
        "skill": "orders",
        "duration_ms": 0,
    }


@dataclass(frozen=True)
class Case:
    """A call that does not succeed; `told` is in the error the model gets."""

    id: str
    call: tuple[str, str]
    status: str
    told: str
    limits: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


CASES = [
    Case("no skill grants it", ("orders:refund", '{"order_id": "ORD-1"}'), "denied", "Not in skill permissions"),
    Case("tenant denies it", ORDER, "denied", "Not in tenant permissions", {"denied_tools": ["orders:*"]}),
    Case("tenant allows others", ORDER, "denied", "Not in tenant permissions", {"allowed_tools": ["customers:*"]}),
    Case("nobody has it", ("ghost:walk", "{}"), "denied", "Unknown tool"),
    Case("invented name", ("../../api/mission-control/tasks", "{}"), "denied", "Not in skill permissions"),
    Case("arguments cut", ("orders:lookup", '{"order_id": '), "error", "not valid JSON"),
    Case("arguments a list", ("orders:lookup", "[1]"), "error", "must be a JSON object"),
    Case("arguments too deep", ("orders:lookup", "[" * 5000), "error", "not valid JSON"),
    Case("tool fails", ("orders:lookup", '{"order_id": "ORD-0"}'), "error", "No such order"),
    Case("arguments wrong", ("orders:lookup", '{"order": 7}'), "error", "arguments are not valid"),
    Case("result too large", ORDER, "error", "larger than 40 bytes", settings={"CLASPER_TOOL_RESULT_BYTES": 40}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_call_that_fails_is_an_answer_to_the_model(
    server: Server, openai: FakeProvider, settings: Any, wide: Path, case: Case
) -> None:
    for name, value in case.settings.items():
        setattr(settings, name, value)
    openai.script(tool_calls(case.call), reply("I could not."))
    response = server.send("Go on", key=tenant_key(ACME, **case.limits))
    assert response.status_code == 200, response.text
    body = response.json()
    (result,) = told(openai.requests[1])
    assert set(result) == {"error"}
    assert case.told in result["error"]
    trace = server.trace(body["trace_id"])
    (step,) = tool_steps(trace)
    assert (step["tool_name"], step["status"], step["success"]) == (case.call[0], case.status, False)
    assert step["permitted"] == (case.status != "denied")
    assert case.told in step["output"]["error"]
    (entry,) = tool_audit(server, body["trace_id"])
    assert entry["event_type"] == ("tool.denied" if case.status == "denied" else "tool.call")
    assert entry["details"]["tool"] == case.call[0]
    assert case.told in entry["details"]["reason"]
    assert trace["status"] == "success"
    assert_balanced()


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, ["customers:search", "orders:lookup"]),
        ({"denied_tools": ["customers:*"]}, ["orders:lookup"]),
        ({"allowed_tools": ["customers:search"]}, ["customers:search"]),
        ({"allowed_tools": ["other:*"]}, []),
        ({"allowed_skills": ["orders"]}, ["orders:lookup"]),
        ({"allowed_skills": ["tone"]}, []),
    ],
    ids=["all granted", "denied", "allowed", "none", "one skill", "skill without tools"],
)
def test_only_tools_that_may_be_used_are_offered(
    server: Server, openai: FakeProvider, wide: Path, limits: dict[str, Any], expected: list[str]
) -> None:
    assert server.send("Hello", key=tenant_key(ACME, **limits)).status_code == 200
    assert sorted(offered(openai.requests[0])) == expected


def test_two_calls_at_once_are_answered_in_their_order(server: Server, openai: FakeProvider, wide: Path) -> None:
    openai.script(
        tool_calls(("customers:search", '{"query": "example"}'), ("orders:refund", "{}"), ORDER, text="Two things."),
        reply("Done."),
    )
    body = server.send("Both, please").json()
    customers, denied, order = told(openai.requests[1])
    assert customers["customers"]
    assert denied == {"error": "Not in skill permissions"}
    assert order["order_id"] == "ORD-1002"
    trace = server.trace(body["trace_id"])
    assert [step["status"] for step in tool_steps(trace)] == ["ok", "denied", "ok"]
    assert [entry["event_type"] for entry in tool_audit(server, body["trace_id"])] == [
        "tool.call",
        "tool.denied",
        "tool.call",
    ]
    assert server.audit(trace_id=body["trace_id"])[-1]["details"]["tool_calls"] == 3


def test_the_numbers_agree(server: Server, openai: FakeProvider) -> None:
    """Response, trace, steps, usage and budget, to the nano-dollar."""
    server.set_budget(limit=1)
    cached = {**USAGE, "prompt_tokens_details": {"cached_tokens": 40}}
    openai.script(tool_calls(ORDER, usage=USAGE), tool_calls(ORDER, usage=cached), reply("Fine.", usage=USAGE))
    body = server.send("Where is my parcel?").json()
    trace = server.trace(body["trace_id"])
    expected = 3 * 20 * 600 + (100 + 60 + 100) * 150 + 40 * 75
    assert body["usage"] == {"prompt_tokens": 300, "completion_tokens": 60, "total_tokens": 360}
    assert {name: trace["usage"][name] for name in body["usage"]} == body["usage"]
    assert trace["usage"]["cached_tokens"] == 40
    assert nano(body["cost"]["totalCost"]) == nano(trace["total_cost"]) == expected
    assert sum(nano(step.get("cost", 0)) for step in trace["steps"]) == expected
    assert nano(server.budget()["spent"]) == expected
    usage = server.get("/usage", params={"tenant_id": ACME}).json()
    assert nano(usage["totalCost"]) == expected
    assert_balanced()


def test_a_stream_shows_calls_without_their_contents(server: Server, openai: FakeProvider) -> None:
    openai.script(tool_calls(ORDER, ("orders:refund", '{"order_id": "ORD-1002"}')), reply("On its way."))
    events = server.stream("Where is my parcel?")
    assert [event.name for event in events if event.name != "chunk"] == [
        "start",
        "tool_call",
        "tool_call",
        "tool_result",
        "tool_result",
        "done",
    ]
    shown = [{**event.data, "duration_ms": 0} for event in events if event.name.startswith("tool_")]
    assert shown == [
        {"type": "tool_call", "name": "orders:lookup", "duration_ms": 0},
        {"type": "tool_call", "name": "orders:refund", "duration_ms": 0},
        {"type": "tool_result", "name": "orders:lookup", "status": "ok", "duration_ms": 0},
        {"type": "tool_result", "name": "orders:refund", "status": "denied", "duration_ms": 0},
    ]
    assert "ORD-1002" not in str([event.data for event in events])


@pytest.mark.parametrize("endpoint", ["send", "stream"])
def test_the_loop_ends_after_eight_rounds(server: Server, openai: FakeProvider, endpoint: str) -> None:
    """The ninth question is asked without tools; a model that calls one all the same gets no answer posted."""
    openai.default = tool_calls(ORDER, usage=USAGE)
    if endpoint == "send":
        response = server.send("Loop")
        assert response.status_code == 502
        answer = response.json()
    else:
        answer = server.stream("Loop")[-1].data
    assert answer["code"] == "tool_rounds_exceeded"
    assert [bool(offered(exchange)) for exchange in openai.requests] == [True] * 8 + [False]
    trace = server.trace(answer["trace_id"])
    assert len(tool_steps(trace)) == 8
    assert nano(trace["total_cost"]) == 9 * (100 * 150 + 20 * 600)
    assert trace["message_id"] is None
    assert_balanced()


def test_a_model_that_stops_at_the_last_round_answers(server: Server, openai: FakeProvider, settings: Any) -> None:
    settings.CLASPER_TOOL_MAX_ROUNDS = 2
    openai.script(tool_calls(ORDER), tool_calls(ORDER), reply("At last."))
    assert server.send("Loop").json()["response"] == "At last."


# --- Against the fake control plane ----------------------------------------------------------------------------------


def test_no_more_than_four_calls_run_at_once(server: Server, backend: Backend, openai: FakeProvider) -> None:
    running, most, lock = 0, 0, threading.Lock()

    async def tool(call: Any) -> web.StreamResponse:
        import asyncio

        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        await asyncio.sleep(0.05)
        with lock:
            running -= 1
        return call.accept()  # type: ignore[no-any-return]

    backend.tools["orders:lookup"] = lambda arguments: {"n": arguments["n"]}
    backend.on("POST /api/tools/orders:lookup", tool)
    calls = [("orders:lookup", f'{{"n": {n}}}') for n in range(10)]
    openai.script(tool_calls(*calls), reply("All ten."))
    assert server.send("Ten").status_code == 200
    assert most == 4
    assert told(openai.requests[1]) == [{"n": n} for n in range(10)]
    keys = [call.body["idempotency_key"] for call in backend.hits("POST /api/tools/orders:lookup")]
    assert len(set(keys)) == 10


def test_a_tool_has_its_own_deadline(server: Server, backend: Backend, openai: FakeProvider, settings: Any) -> None:
    settings.CLASPER_TOOL_TIMEOUT_MS = 100
    backend.tools["orders:lookup"] = lambda arguments: {}
    backend.on("POST /api/tools/orders:lookup", hangs)
    openai.script(tool_calls(ORDER), reply("It is silent."))
    began = time.monotonic()
    body = server.send("Go on").json()
    assert time.monotonic() - began < 2
    assert "in time" in told(openai.requests[1])[0]["error"]
    (step,) = tool_steps(server.trace(body["trace_id"]))
    assert (step["status"], step["permitted"]) == ("error", True)
    assert step["duration_ms"] >= 100


def test_a_tool_cannot_outlive_the_run(server: Server, backend: Backend, openai: FakeProvider, settings: Any) -> None:
    settings.CLASPER_RUN_TIMEOUT_MS = 300
    backend.tools["orders:lookup"] = lambda arguments: {}
    backend.on("POST /api/tools/orders:lookup", hangs)
    openai.script(tool_calls(ORDER, usage=USAGE), reply("Too late."))
    response = server.send("Go on")
    assert (response.status_code, response.json()["code"]) == (504, "timeout")
    trace = server.trace(response.json()["trace_id"])
    assert (trace["status"], nano(trace["total_cost"])) == ("timeout", 100 * 150 + 20 * 600)
    assert_balanced()


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (web.Response(text="<html>", content_type="text/html"), "not JSON"),
        (web.json_response({"error": "Out of stock"}, status=422), "Out of stock"),
        (web.json_response({}, status=500), ""),
        (web.Response(status=302, headers={"Location": "http://127.0.0.1/"}), ""),
        (web.Response(body=b'"' + b"x" * 70_000 + b'"', content_type="application/json"), "larger than 65536 bytes"),
    ],
    ids=["no JSON", "business error", "broken", "redirect", "oversized"],
)
def test_what_a_tool_may_answer(
    server: Server, backend: Backend, openai: FakeProvider, result: web.Response, expected: str
) -> None:
    backend.tools["orders:lookup"] = lambda arguments: result
    openai.script(tool_calls(ORDER), reply("So be it."))
    assert server.send("Go on").status_code == 200
    (answer,) = told(openai.requests[1])
    assert expected in answer["error"]
    assert_balanced()


@pytest.mark.parametrize("listing", [answers(500), raw(b"nonsense"), answers(404)], ids=["broken", "garbage", "absent"])
def test_an_agent_without_its_tools_still_answers(
    server: Server, backend: Backend, openai: FakeProvider, listing: Any
) -> None:
    backend.tools["orders:lookup"] = lambda arguments: {}
    backend.on(TOOLS, listing)
    body = server.send("Hello").json()
    assert offered(openai.requests[0]) == []
    assert server.trace(body["trace_id"])["status"] == "success"


def test_tools_are_not_asked_for_when_none_is_granted(
    server: Server, backend: Backend, openai: FakeProvider, workspace: Path
) -> None:
    (workspace / "skills" / "orders" / "SKILL.md").unlink()
    backend.tools["orders:lookup"] = lambda arguments: {}
    assert server.send("Hello").status_code == 200
    assert backend.hits(TOOLS) == []
    assert offered(openai.requests[0]) == []


def test_the_budget_is_asked_before_each_round(server: Server, backend: Backend, openai: FakeProvider) -> None:
    """A large result makes the next question dearer than what is left: the run ends, what was used is paid."""
    backend.tools["orders:lookup"] = lambda arguments: {"text": "x" * 60_000}
    server.set_budget(limit=0.005)
    openai.script(tool_calls(ORDER, usage=USAGE), reply("Never asked."))
    response = server.send("Go on")
    assert (response.status_code, response.json()["code"]) == (402, "budget_exceeded")
    assert len(openai.requests) == 1
    trace = server.trace(response.json()["trace_id"])
    assert nano(trace["total_cost"]) == 100 * 150 + 20 * 600
    assert [entry["event_type"] for entry in server.audit(trace_id=trace["id"])] == [
        "agent.start",
        "tool.call",
        "budget.exceeded",
        "agent.error",
    ]
    assert_balanced()
