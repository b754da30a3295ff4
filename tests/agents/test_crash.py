"""kill -9 in the middle of a run: what the next process finds, and what a client that simply retries gets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from fakes.llm import Behaviour, FakeProvider, reply, silence, tool_calls
from tests.agents.backend import MESSAGES, TASKS, Backend, Reply, accepts_and_hangs, hangs
from tests.agents.processes import Installation, wait_until
from tests.conftest import run
from tests.world import ACME, Server

TIMEOUT_SECONDS = 2.0
LEASE_AND_SWEEP = 2 * TIMEOUT_SECONDS + 0.5
SLACK = 10.0
"""A busy machine starts a process slowly; the lease itself is asserted from the table."""

USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
PRICED = 100 * 150 + 20 * 600
LOOKUP = "POST /api/tools/orders:lookup"


@dataclass(frozen=True)
class Crash:
    """Where the process dies. `answered` says that the run had its answer by then, so that nothing may be lost."""

    id: str
    provider: tuple[Behaviour, ...]
    backend: dict[str, Reply]
    answered: bool = False
    paid: int = 0
    """Nano-USD that the killed run had to its name."""


ANSWER = reply("The parcel is on its way.", usage=USAGE)
CRASHES = [
    Crash("task accepted", (), {TASKS: accepts_and_hangs}),
    Crash("provider thinks", (silence(60),), {}),
    Crash("tool runs", (tool_calls(("orders:lookup", "{}"), usage=USAGE),), {LOOKUP: hangs}, paid=PRICED),
    Crash("message unheard", (ANSWER,), {MESSAGES: hangs}, answered=True, paid=PRICED),
    Crash("message accepted", (ANSWER,), {MESSAGES: accepts_and_hangs}, answered=True, paid=PRICED),
]


@pytest.fixture
def backend() -> Iterator[Backend]:
    found = Backend.start()
    found.tools["orders:lookup"] = lambda arguments: {"status": "shipped"}
    yield found
    found.close()


@pytest.fixture
def installation(
    store: None, tmp_path: Path, workspace: Path, provider: FakeProvider, backend: Backend
) -> Iterator[Installation]:
    found = Installation.create(
        tmp_path,
        workspace,
        LLM_PROVIDER="openai",
        OPENAI_API_KEY="test-key",
        OPENAI_BASE_URL=provider.url,
        BACKEND_URL=backend.url,
        CLASPER_RUN_TIMEOUT_MS=str(int(TIMEOUT_SECONDS * 1000)),
    )
    yield found
    found.kill()


def ask(server: Server) -> httpx.Response:
    return server.send("Where is my parcel?", headers={"Idempotency-Key": "parcel-1"})


def begin(server: Server) -> threading.Thread:
    """A client whose answer will not come."""

    def doomed() -> None:
        with pytest.raises(httpx.TransportError):
            ask(server)

    client = threading.Thread(target=doomed)
    client.start()
    return client


def reached(crash: Crash, provider: FakeProvider, backend: Backend) -> None:
    for route in crash.backend:
        backend.arrived(route)
    if not crash.backend:
        run(provider.arrived())


def retried(server: Server) -> httpx.Response:
    """What a client gets that retries as long as it is told to wait."""
    responses: list[httpx.Response] = []

    def done() -> bool:
        responses.append(ask(server))
        return responses[-1].status_code == 200

    wait_until(done, within=LEASE_AND_SWEEP + SLACK, what="an answer to the retry")
    for waiting in responses[:-1]:
        assert (waiting.status_code, waiting.json()["code"]) in ((409, "in_progress"), (502, "backend_error"))
        assert waiting.json()["trace_id"]
    return responses[-1]


@pytest.mark.slow
@pytest.mark.parametrize("crash", CRASHES, ids=lambda crash: crash.id)
def test_a_killed_run_is_swept_or_delivered_exactly_once(
    installation: Installation, provider: FakeProvider, backend: Backend, crash: Crash
) -> None:
    provider.script(*crash.provider)
    for route, behaviour in crash.backend.items():
        backend.on(route, behaviour)
    server = installation.serve()
    server.set_budget(limit=1)
    client = begin(server)
    reached(crash, provider, backend)
    installation.kill()
    client.join()
    ((trace_id, status),) = installation.query("SELECT id, status FROM traces")
    assert status == ("success" if crash.answered else "running")

    for route in crash.backend:
        backend.on(route)
    provider.default = ANSWER
    server = installation.serve()
    again = retried(server).json()

    assert again["response"] == "The parcel is on its way."
    assert (again["trace_id"] == trace_id) is crash.answered
    assert len(backend.tasks) == 1
    assert [message["content"] for message in backend.messages] == ["The parcel is on its way."]
    killed = server.trace(trace_id)
    assert killed["status"] == ("success" if crash.answered else "error")
    assert killed["error_code"] == (None if crash.answered else "interrupted")
    assert round(killed["total_cost"] * 10**9) == crash.paid
    assert bool(killed["message_id"]) is crash.answered
    check_books(installation, server, trace_id, answered=crash.answered)


def check_books(installation: Installation, server: Server, trace_id: str, *, answered: bool) -> None:
    number = installation.number
    assert number("SELECT COUNT(*) FROM traces WHERE status = 'running'") == 0
    assert number("SELECT COUNT(*) FROM budget_holds") == 0
    assert server.budget()["reserved"] == 0
    cost = number("SELECT SUM(cost) FROM traces")
    assert number("SELECT SUM(cost) FROM trace_steps") == cost
    assert number("SELECT SUM(cost) FROM spend_days") == cost
    assert number("SELECT spent FROM tenant_budgets") == cost
    assert number("SELECT SUM(cost) FROM trace_rollups WHERE dimension = 'status'") == cost
    assert number("SELECT COUNT(*) FROM outbox WHERE status <> 'delivered'") == 0
    events: list[Any] = [entry["event_type"] for entry in server.audit(tenant_id=ACME, trace_id=trace_id)]
    assert [event for event in events if not event.startswith("tool.")] == [
        "agent.start",
        "agent.complete" if answered else "run.swept",
    ]
    assert server.get("/audit/verify").json()["valid"] is True
