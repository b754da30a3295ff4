"""A control plane or a webhook receiver that fails: nothing is lost, nothing arrives twice, and a person can see it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from apps.agents.consumers.conversations import parse_body
from apps.agents.delivery.outbox import deliver_due
from apps.agents.delivery.sweeper import sweep
from apps.agents.domain.run import TraceRef
from apps.agents.models import Delivery
from apps.agents.services.conversations import conversation_request
from apps.agents.services.runs import start
from apps.identity.services.authentication import DAEMON
from clasper.core.clock import utc_now
from clasper.core.ids import new_id
from fakes.llm import FakeProvider, reply
from tests.agents.backend import (
    DOCUMENTS,
    GARBAGE,
    HUGE,
    LIST_TASKS,
    MESSAGES,
    TASKS,
    Backend,
    Receiver,
    Reply,
    accepts,
    answers,
    hangs,
    lost,
    unheard,
)
from tests.agents.ledger import assert_balanced, deliveries
from tests.conftest import run
from tests.world import Server, send_body


def deliver(later: timedelta = timedelta(0)) -> int:
    """One round of the worker, at a later instant."""
    return run(deliver_due(now=utc_now() + later))


def deliver_all(later: timedelta = timedelta(0)) -> None:
    while deliver(later):
        pass


DOWN: list[Any] = [
    pytest.param(answers(500), id="500"),
    pytest.param(answers(503), id="503"),
    pytest.param(answers(401), id="401"),
    pytest.param(answers(403), id="403"),
    pytest.param(answers(302, Location="http://127.0.0.1:1/"), id="redirect"),
    pytest.param(GARBAGE, id="garbage"),
    pytest.param(HUGE, id="huge"),
    pytest.param(unheard, id="reset"),
]


@pytest.mark.parametrize("route", [LIST_TASKS, TASKS])
@pytest.mark.parametrize("behaviour", DOWN)
def test_without_a_task_no_model_is_asked(
    server: Server, backend: Backend, openai: FakeProvider, behaviour: Reply, route: str
) -> None:
    server.set_budget(limit=1)
    backend.on(route, behaviour)
    response = server.send("Hello")
    assert (response.status_code, response.json()["code"]) == (502, "backend_error"), response.text
    assert "127.0.0.1" not in response.text
    assert openai.requests == []
    trace = server.trace(response.json()["trace_id"])
    assert (trace["status"], trace["error_code"], trace["total_cost"]) == ("error", "backend_error", 0)
    assert [(step["type"], step["name"], step["code"]) for step in trace["steps"]] == [
        ("error", "task", "backend_error")
    ]
    events = [entry["event_type"] for entry in server.audit(trace_id=trace["id"])]
    assert events == ["agent.start", "agent.error"]
    assert deliveries() == []
    assert_balanced()


def test_a_backend_that_is_not_there(server: Server, openai: FakeProvider, settings: Any, unused_tcp_port: int) -> None:
    settings.BACKEND_URL = f"http://127.0.0.1:{unused_tcp_port}"
    events = server.stream("Hello")
    assert [event.name for event in events] == ["start", "error"]
    assert events[1].data["code"] == "backend_error"
    assert openai.requests == []
    assert_balanced()


def test_a_slow_backend_ends_with_the_run(
    server: Server, backend: Backend, openai: FakeProvider, settings: Any
) -> None:
    settings.CLASPER_RUN_TIMEOUT_MS = 300
    backend.on(LIST_TASKS, hangs)
    response = server.send("Hello")
    assert (response.status_code, response.json()["code"]) == (502, "backend_error")
    assert openai.requests == []
    assert_balanced()


@pytest.mark.parametrize("behaviour", DOWN)
def test_an_answer_that_cannot_be_posted_is_kept_and_posted_later(
    server: Server, backend: Backend, openai: FakeProvider, behaviour: Reply
) -> None:
    openai.script(reply("Kept."))
    backend.on(MESSAGES, behaviour)
    response = server.send("Hello")
    assert (response.status_code, response.json()["code"]) == (502, "backend_error")
    trace_id = response.json()["trace_id"]
    trace = server.trace(trace_id)
    assert (trace["status"], trace["output"], trace["message_id"]) == ("success", {"response": "Kept."}, None)
    (row,) = deliveries()
    assert (row.kind, row.status, row.attempts) == ("message", "pending", 1)
    assert row.last_error
    assert b"Kept." not in bytes(row.sealed)

    deliver(timedelta(seconds=1))
    (row,) = deliveries()
    assert (row.status, row.attempts) == ("pending", 2)

    backend.on(MESSAGES)
    deliver_all(timedelta(minutes=1))
    assert deliver(timedelta(hours=1)) == 0
    assert [message["content"] for message in backend.messages] == ["Kept."]
    assert server.trace(trace_id)["message_id"] == backend.messages[0]["id"]
    (row,) = deliveries()
    assert (row.status, bytes(row.sealed)) == ("delivered", b"")
    assert_balanced()


@pytest.mark.parametrize("route", [TASKS, MESSAGES, DOCUMENTS])
def test_a_lost_answer_makes_nothing_twice(server: Server, backend: Backend, openai: FakeProvider, route: str) -> None:
    backend.on(route, lost, lost, accepts)
    response = server.send("Hello", metadata={"kickoff_plan": True})
    assert response.status_code == 200, response.text
    assert len(backend.hits(route)) == 3
    assert (len(backend.tasks), len(backend.messages), len(backend.documents)) == (1, 1, 1)
    trace = server.trace(response.json()["trace_id"])
    assert trace["task_id"] == backend.tasks[0]["id"]
    assert trace["message_id"] == backend.messages[0]["id"]
    assert trace["document_id"] == backend.documents[0]["id"]


def test_the_document_follows_its_message(server: Server, backend: Backend, openai: FakeProvider) -> None:
    """Order is kept however long the message takes."""
    openai.script(reply("1. Look\n2. Tell"))
    backend.on(MESSAGES, answers(500))
    options = {"kickoff_plan": True, "kickoff_note": "Be brief.", "plan_title": "My plan"}
    response = server.send("Help me", metadata=options)
    assert response.status_code == 502
    deliver_all(timedelta(minutes=1))
    assert backend.hits(DOCUMENTS) == []

    backend.on(MESSAGES)
    deliver_all(timedelta(hours=1))
    deliver_all(timedelta(hours=1))
    routes = [call.route for call in backend.writes if call.route in (MESSAGES, DOCUMENTS)]
    assert routes[-2:] == [MESSAGES, DOCUMENTS]
    (document,) = backend.documents
    assert (document["title"], document["doc_type"]) == ("My plan", "plan")
    assert document["content"] == "Be brief.\n\n1. Look\n2. Tell"
    assert document["task_id"] == backend.tasks[0]["id"]
    asked = openai.requests[0].body["messages"][-1]["content"]
    assert asked == "Be brief.\n\nUser request: Help me"
    assert server.trace(response.json()["trace_id"])["document_id"] == document["id"]


def test_a_backend_that_stays_down_is_given_up_after_a_day(
    server: Server, backend: Backend, openai: FakeProvider
) -> None:
    backend.on(MESSAGES, answers(500))
    trace_id = server.send("Hello").json()["trace_id"]
    for hours in (1, 12, 23):
        deliver(timedelta(hours=hours))
    assert [row.status for row in deliveries()] == ["pending"]
    deliver(timedelta(hours=25))
    (row,) = deliveries()
    assert row.status == "dead"
    assert bytes(row.sealed) != b""
    dead = [entry for entry in server.audit() if entry["event_type"] == "delivery.dead"]
    assert [(entry["trace_id"], entry["details"]["kind"]) for entry in dead] == [(trace_id, "message")]
    assert deliver(timedelta(days=3)) == 0


def test_the_waits_grow(server: Server, backend: Backend, openai: FakeProvider, settings: Any) -> None:
    settings.CLASPER_OUTBOX_RETRY_MS = 1000
    backend.on(MESSAGES, answers(404))
    server.send("Hello")
    waits = []
    for _ in range(4):
        due = Delivery.objects.get().next_attempt_at
        run(deliver_due(now=due))
        waits.append((Delivery.objects.get().next_attempt_at - due).total_seconds())
    assert waits == pytest.approx([2, 4, 8, 16], abs=0.9)


def test_one_row_that_does_not_open_holds_nobody_up(server: Server, backend: Backend, openai: FakeProvider) -> None:
    backend.on(MESSAGES, answers(500))
    server.send("First")
    server.send("Second")
    first, _ = deliveries()
    Delivery.objects.filter(id=first.id).update(sealed=b"spoilt")
    backend.on(MESSAGES)
    deliver_all(timedelta(hours=1))
    assert [row.status for row in deliveries()] == ["dead", "delivered"]
    assert len(backend.messages) == 1


def test_a_task_is_found_by_its_title(server: Server, backend: Backend, openai: FakeProvider) -> None:
    for _ in range(2):
        assert server.send("Hello").status_code == 200
    assert server.send("Hello", task_title="Other").status_code == 200
    assert [task["title"] for task in backend.tasks] == ["Support", "Other"]


def test_a_run_may_leave_the_backend_out(server: Server, backend: Backend, openai: FakeProvider) -> None:
    body = server.send("Hello", task_title=None, metadata={"skip_backend": True}).json()
    assert (body["skipped_backend"], body["task_id"]) == (True, None)
    assert backend.writes == []
    assert deliveries() == []


# --- Webhooks ---------------------------------------------------------------------------------------------------------


def test_a_webhook_is_signed_and_says_what_happened(server: Server, backend: Backend, receiver: Receiver) -> None:
    hook = {"url": receiver.url, "secret": "s3cret", "headers": {"X-Custom-Header": "value"}}
    body = server.send("Hello", webhook=hook).json()
    deliver_all()
    ((headers, content),) = receiver.received
    assert headers["X-Clasper-Signature"] == hmac.new(b"s3cret", content, hashlib.sha256).hexdigest()
    assert headers["X-Custom-Header"] == "value"
    assert headers["X-Clasper-Delivery"] == deliveries(kind="webhook")[0].id
    assert datetime.fromisoformat(headers["X-Clasper-Timestamp"]).tzinfo is not None
    told = msgspec.json.decode(content)
    assert told | {"timestamp": ""} == {
        "event": "agent.completed",
        "timestamp": "",
        "trace_id": body["trace_id"],
        "task_id": body["task_id"],
        "user_id": "u-1",
        "role": "support",
        "response": body["response"],
        "usage": body["usage"],
        "cost": body["cost"],
    }


def test_a_streams_webhook_is_sent_too(server: Server, backend: Backend, receiver: Receiver) -> None:
    done = server.stream("Hello", webhook={"url": receiver.url})[-1]
    deliver_all()
    ((_, content),) = receiver.received
    assert msgspec.json.decode(content)["trace_id"] == done.data["trace_id"]


def test_a_crash_is_reported_too(server: Server, receiver: Receiver) -> None:
    """The run is admitted and its process dies: the sweeper ends it and its webhook hears of that."""

    async def admitted() -> str:
        body = parse_body(send_body(webhook={"url": receiver.url}))
        events = await start(
            conversation_request(
                body,
                {},
                kind="send",
                principal=DAEMON,
                tenant_id=body.user_id,
                trace=TraceRef(new_id()),
                idempotency=None,
                now=utc_now(),
            )
        )
        started = await anext(events)
        abandoned.append(events)
        return started.trace_id

    abandoned: list[Any] = []
    loop = asyncio.new_event_loop()
    trace_id = loop.run_until_complete(admitted())
    assert [row.status for row in deliveries(kind="webhook")] == ["held"]
    assert deliver() == 0
    swept = run(sweep(now=utc_now() + timedelta(hours=1)))
    assert swept.runs == 1
    deliver(timedelta(hours=1))
    ((_, content),) = receiver.received
    told = msgspec.json.decode(content)
    assert (told["event"], told["code"], told["trace_id"]) == ("agent.error", "interrupted", trace_id)
    # The late settlement of the generator's end finds the run ended.
    loop.run_until_complete(abandoned[0].aclose())
    loop.close()
    deliver(timedelta(hours=2))
    assert len(receiver.received) == 1
    assert_balanced()


@pytest.mark.parametrize(
    ("statuses", "tries", "status"),
    [
        ((500, 503, 429, 204), 4, "delivered"),
        ((500,), 5, "dead"),
        ((404,), 1, "dead"),
        ((400,), 1, "dead"),
        ((301,), 1, "dead"),
        ((408, 200), 2, "delivered"),
    ],
    ids=["recovers", "down", "404", "400", "redirect", "slow once"],
)
def test_a_webhook_that_fails(
    server: Server, backend: Backend, receiver: Receiver, statuses: tuple[int, ...], tries: int, status: str
) -> None:
    receiver.statuses = statuses
    trace_id = server.send("Hello", webhook={"url": receiver.url, "secret": "s"}).json()["trace_id"]
    for hours in range(8):
        deliver(timedelta(hours=hours))
    assert len(receiver.received) == tries
    assert len({headers["X-Clasper-Delivery"] for headers, _ in receiver.received}) == 1
    assert len({headers["X-Clasper-Signature"] for headers, _ in receiver.received}) == 1
    (row,) = deliveries(kind="webhook")
    assert (row.status, row.attempts) == (status, tries)
    dead = [entry for entry in server.audit() if entry["event_type"] == "delivery.dead"]
    assert [(entry["trace_id"], entry["details"]["attempts"]) for entry in dead] == (
        [(trace_id, tries)] if status == "dead" else []
    )


def test_an_address_that_became_private_is_refused_when_it_is_called(
    server: Server, backend: Backend, receiver: Receiver, settings: Any
) -> None:
    server.send("Hello", webhook={"url": receiver.url})
    settings.CLASPER_URL_ALLOWLIST = []
    deliver_all()
    assert receiver.received == []
    assert [row.status for row in deliveries(kind="webhook")] == ["dead"]


def test_a_webhook_waits_for_nobody(server: Server, backend: Backend, receiver: Receiver) -> None:
    """The backend's trouble is not the receiver's."""
    backend.on(MESSAGES, answers(500))
    assert server.send("Hello", webhook={"url": receiver.url}).status_code == 502
    deliver()
    assert len(receiver.received) == 1
