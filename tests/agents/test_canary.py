"""Personal data and secrets in every field of every kind of run: none of it in any table, log or webhook body.

The model and the control plane get the originals. The embedded control plane is not asked here: the user's own backend
keeps what it is given.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web

from apps.agents.delivery.outbox import deliver_due
from apps.agents.delivery.sweeper import sweep
from clasper.core.clock import utc_now
from fakes.llm import FakeProvider, error, half_stream, raw, reply, stream_error, tool_calls
from tests.agents.backend import MESSAGES, TASKS, Backend, Receiver, answers
from tests.agents.canaries import Canaries, leaks
from tests.conftest import run
from tests.world import Server

TOOL = "POST /api/tools/orders:lookup"


@pytest.fixture
def talkative(backend: Backend, openai: FakeProvider, canaries: Canaries) -> None:
    """A model and a tool that repeat personal data in everything they say."""
    backend.tools["orders:lookup"] = lambda arguments: {
        "note": canaries.text("tool result"),
        canaries.text("tool result key"): 1,
    }
    arguments = json.dumps({"order_id": canaries.text("tool arguments"), "list": [canaries.text("nested argument")]})
    openai.script(
        tool_calls(
            ("orders:lookup", arguments),
            ("orders:refund", json.dumps({"reason": canaries.text("denied arguments")})),
            ("orders:lookup", '{"broken": "' + canaries.text("broken arguments")),
            (canaries.text("invented tool"), "{}"),
            text=canaries.text("words beside calls"),
        ),
        reply(canaries.text("answer")),
    )


def request(canaries: Canaries, receiver: Receiver) -> dict[str, Any]:
    """A run request with a canary in every field that holds words."""
    text = canaries.text
    return {
        "message": text("message"),
        "messages": [
            {"role": "user", "content": text("history of the user")},
            {"role": "assistant", "content": text("history of the agent")},
        ],
        "task_title": text("task title"),
        "task_description": text("task description"),
        "task_metadata": {"note": text("task metadata"), text("task metadata key"): True},
        "metadata": {
            "system_prompt": text("prompt override"),
            "kickoff_plan": True,
            "kickoff_note": text("kickoff note"),
            "plan_title": text("plan title"),
            "custom": {"deep": [text("metadata")], text("metadata key"): 1},
        },
        "webhook": {
            "url": f"{receiver.url}?for={canaries.text('webhook url').replace(' ', '%20')}",
            "secret": text("webhook secret"),
            "headers": {"X-Note": text("webhook header")},
        },
        "headers": {
            "X-Trace-Id": text("trace header"),
            "Idempotency-Key": text("idempotency header")[:255],
            "X-Other": text("other header"),
            "User-Agent": text("user agent"),
        },
    }


async def deliver() -> None:
    for hours in range(0, 30, 6):
        await deliver_due(now=utc_now() + timedelta(hours=hours))
    await sweep(now=utc_now() + timedelta(hours=1))


@pytest.mark.parametrize("endpoint", ["send", "stream"])
def test_a_run_that_goes_well(
    server: Server,
    backend: Backend,
    openai: FakeProvider,
    receiver: Receiver,
    talkative: None,
    canaries: Canaries,
    caplog: pytest.LogCaptureFixture,
    endpoint: str,
) -> None:
    body = request(canaries, receiver)
    if endpoint == "send":
        assert server.send(**body).status_code == 200
        assert server.send(**body).headers["Idempotency-Replayed"] == "true"
    else:
        assert server.stream(**body)[-1].name == "done"
    run(deliver())

    read = json.dumps([exchange.body for exchange in openai.requests], ensure_ascii=False)
    for where in ("message", "history of the user", "prompt override", "kickoff note", "tool result"):
        assert all(value in read for value in canaries.of(where)), where
    kept = json.dumps([backend.tasks, backend.messages, backend.documents, [call.body for call in backend.hits(TOOL)]])
    for where in ("task title", "task description", "answer", "plan title", "tool arguments", "nested argument"):
        assert all(value in kept for value in canaries.of(where)), where
    assert len(receiver.received) == 1
    assert leaks(canaries, caplog, receiver) == []


BROKEN = ["provider", "headers", "event", "refusal", "stream", "unknown model", "garbage", "task", "message", "tool"]


@pytest.mark.parametrize("endpoint", ["send", "stream"])
@pytest.mark.parametrize("broken", BROKEN)
def test_a_run_that_fails(
    server: Server,
    backend: Backend,
    openai: FakeProvider,
    receiver: Receiver,
    canaries: Canaries,
    caplog: pytest.LogCaptureFixture,
    broken: str,
    endpoint: str,
) -> None:
    problem = {"error": {"message": canaries.text("problem"), "code": canaries.text("problem code")}}
    if broken == "provider":
        openai.script(error(400, problem))
    elif broken == "unknown model":
        openai.script(error(404, {"error": {"message": canaries.text("no model"), "code": "model_not_found"}}))
    elif broken == "garbage":
        openai.default = error(503, f"<html>{canaries.text('error page')}</html>")
    elif broken == "headers":
        headers = {"Retry-After": canaries.text("retry header"), "X-Request-Id": canaries.text("id header")}
        openai.default = error(429, problem, headers)
    elif broken == "event":
        openai.default = stream_error("One", message=canaries.text("event"), code=canaries.text("event code"))
    elif broken == "refusal":
        openai.default = reply(canaries.text("refusal"), finish="refusal")
    elif broken == "stream":
        openai.script(half_stream(3))
    elif broken == "task":
        backend.on(TASKS, answers(400, problem, Warning=canaries.text("warning")))
    elif broken == "message":
        openai.script(reply(canaries.text("answer")))
        backend.on(MESSAGES, answers(404, problem))
    elif broken == "tool":
        backend.tools["orders:lookup"] = lambda arguments: web.json_response(problem, status=422)
        openai.script(tool_calls(("orders:lookup", "{}")), reply("Sorry."))
    body = request(canaries, receiver)
    if endpoint == "send":
        server.send(**body)
    else:
        server.stream(**body)
    run(deliver())
    assert len(receiver.received) == 1
    assert leaks(canaries, caplog, receiver) == []


def test_what_a_host_says_beside_its_answer(
    server: Server,
    backend: Backend,
    openai: FakeProvider,
    receiver: Receiver,
    canaries: Canaries,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Names, ids, reasons and headers."""
    backend.tools["orders:lookup"] = lambda arguments: {"found": True}
    call = {"id": canaries.name("call id"), "type": "function", "function": {"name": "orders_lookup", "arguments": ""}}
    message = {"role": "assistant", "content": "", "tool_calls": [call], "annotations": [canaries.text("annotation")]}
    choice = {"index": 0, "message": message, "finish_reason": canaries.name("reason")}
    told = {name: canaries.name(name) for name in ("id", "model", "system_fingerprint", "service_tier")}
    openai.script(
        raw(json.dumps({**told, "choices": [choice]}).encode(), headers={"X-Request-Id": canaries.name("header")}),
        reply("Done.", model=canaries.name("model of the answer")),
    )
    assert server.send(**request(canaries, receiver)).status_code == 200
    run(deliver())
    assert len(openai.requests) == 2
    assert leaks(canaries, caplog, receiver) == []


def test_a_request_that_is_refused(
    server: Server,
    backend: Backend,
    openai: FakeProvider,
    receiver: Receiver,
    canaries: Canaries,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At the endpoint, by the budget, for the credential: what is refused is not kept either."""
    body = request(canaries, receiver)
    assert server.send(**{**body, "session_key": canaries.text("session")}).status_code == 400
    assert server.send(**{**body, "messages": canaries.text("wrong type")}).status_code == 400
    assert server.send(key=canaries.of("message")[3], **body).status_code == 401
    for model in (canaries.name("model"), f"openai/{canaries.name('host model')}"):
        refusal = server.send(**{**body, "metadata": {**body["metadata"], "model": model}})
        assert (refusal.status_code, refusal.json()["details"]["fieldErrors"].keys()) == (400, {"model"})
    server.set_budget(limit=0.000000001)
    assert server.send(**body).status_code == 402
    assert leaks(canaries, caplog, receiver) == []
