"""Clients that leave: the provider is cancelled at once, what arrived is paid, nothing is posted, nothing stays."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from django.db import connection, transaction

from apps.agents.delivery.outbox import deliver_due
from apps.traces.models import Trace
from apps.workspaces.services import load_workspace
from apps.workspaces.services.snapshots import SHARED, store_snapshot
from clasper.core.clock import utc_now
from clasper.gateways import http
from fakes.llm import FakeProvider, reply, silence, tool_calls
from tests.agents.backend import MESSAGES, Backend, hangs
from tests.agents.ledger import assert_balanced, deliveries, nano
from tests.agents.processes import wait_until
from tests.conftest import run
from tests.world import DAEMON_KEY, Server, send_body

CLIENTS = 1_000
AT_ONCE = 20
WORDS = 60
SEED = int(os.environ.get("CLASPER_TEST_SEED", "20260210"))


@dataclass(slots=True)
class Visit:
    """A client: how many chunks it means to read, and when it left. -1 leaves without reading anything."""

    name: str
    chunks: int
    left: float = 0.0


async def visit(
    server: Server,
    wanted: Visit,
    *,
    endpoint: str = "stream",
    until: Callable[[], Any] | None = None,
    headers: str = "",
) -> None:
    """Asks, reads so many chunks, waits for `until`, and hangs up without a word."""
    where = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    body = msgspec.json.encode(send_body(wanted.name))
    head = (
        f"POST /api/agents/{endpoint} HTTP/1.1\r\nHost: {where.netloc}\r\nX-Agent-Daemon-Key: {DAEMON_KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    seen = 0
    while seen < wanted.chunks:
        line = await reader.readline()
        assert line, "the server hung up first"
        seen += line == b"event: chunk\n"
    if wanted.chunks == 0:
        await reader.readuntil(b"event: start\n")
    if until is not None:
        await asyncio.to_thread(until)
    wanted.left = time.monotonic()
    writer.close()


def settled(count: int) -> Callable[[], bool]:
    return lambda: Trace.objects.count() == count and not Trace.objects.filter(status="running").exists()


def server_tasks() -> int:
    """Tasks on the server's event loop, the one whose session is open."""
    loops = [loop for loop in http._sessions if loop.is_running()]
    return sum(len(asyncio.all_tasks(loop)) for loop in loops)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_thousand_clients_leave_at_any_moment(server: Server, backend: Backend, openai: FakeProvider) -> None:
    choose = random.Random(SEED)
    server.set_budget(limit=100)
    server.stream("Warm up")
    before = server_tasks()
    openai.default = reply(" ".join(f"word{n}" for n in range(WORDS)), delay=0.02)
    visits = [Visit(f"client {n}", choose.choice([0, 1, 1, 2, 3, 5, 8, 13, 20])) for n in range(CLIENTS)]

    async def all_of_them() -> None:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(wanted: Visit) -> None:
            async with gate:
                await visit(server, wanted)

        await asyncio.gather(*map(one, visits))

    run(all_of_them())
    wait_until(settled(CLIENTS + 1), within=30, what="every trace settled")

    exchanges = {exchange.body["messages"][-1]["content"]: exchange for exchange in openai.requests}
    wait_until(lambda: all(exchange.ended for exchange in exchanges.values()), within=5, what="the provider's rest")
    delays, strayed = [], []
    traces = {server.trace(each.id)["input"]["message"]: server.trace(each.id) for each in Trace.objects.all()}
    for wanted in visits:
        trace = traces[wanted.name]
        assert (trace["status"], trace["error_code"], trace["message_id"]) == ("cancelled", "cancelled", None)
        exchange = exchanges.get(wanted.name)
        if exchange is None:  # it left before the model was asked
            assert trace["total_cost"] == 0
            continue
        assert exchange.disconnected is not None
        assert exchange.chunks_sent < WORDS
        delays.append(exchange.disconnected - wanted.left)
        words = partial_words(trace)
        assert words >= wanted.chunks
        assert bool(trace["total_cost"]) is bool(words)
        assert trace["estimated"] is bool(words)
        # The first chunk of a stream holds no text.
        strayed.append(abs(words - max(0, exchange.chunks_sent - 1)))
    assert statistics.median(delays) <= 0.25
    assert statistics.median(strayed) <= 1
    assert len(backend.messages) == 1
    assert len(deliveries()) == 1
    assert_balanced()
    assert server.stream("And on")[-1].name == "done"
    wait_until(lambda: server_tasks() <= before, within=5, what="the tasks of the clients that left to end")


def partial_words(trace: dict[str, Any]) -> int:
    (step,) = trace["steps"]
    assert step["status"] == "cancelled"
    return len(step["output"]["partial"].split()) if step["output"] else 0


def test_a_send_whose_client_leaves(server: Server, backend: Backend, openai: FakeProvider) -> None:
    openai.default = silence(20)
    wanted = Visit("Hello", -1)

    async def leave() -> float:
        await visit(server, wanted, endpoint="send", until=lambda: run(openai.arrived()))
        return await openai.disconnected(openai.requests[0])

    assert run(leave()) - wanted.left < 1.0
    wait_until(settled(1), within=5, what="the trace settled")
    trace = Trace.objects.get()
    assert (trace.status, trace.cost) == ("cancelled", 0)
    assert [entry["event_type"] for entry in server.audit()] == ["agent.start", "agent.error"]
    assert deliveries() == []
    assert_balanced()


def test_a_client_that_leaves_during_a_tool_call(server: Server, backend: Backend, openai: FakeProvider) -> None:
    """The model call before it is paid; the tool call is dropped, and noted, since it may have taken effect."""
    lookup = "POST /api/tools/orders:lookup"
    backend.tools["orders:lookup"] = lambda arguments: {}
    backend.on(lookup, hangs)
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    openai.script(tool_calls(("orders:lookup", "{}"), usage=usage))
    server.set_budget(limit=1)
    run(visit(server, Visit("Hello", 0), until=lambda: backend.arrived(lookup)))
    wait_until(settled(1), within=5, what="the trace settled")
    trace = Trace.objects.get()
    assert (trace.status, trace.cost) == ("cancelled", 100 * 150 + 20 * 600)
    assert [(step["type"], step["status"]) for step in server.trace(trace.id)["steps"]] == [
        ("llm_call", "ok"),
        ("tool_call", "cancelled"),
    ]
    (call,) = server.audit(event_type="tool.call")
    assert (call["details"]["tool"], call["details"]["status"]) == ("orders:lookup", "cancelled")
    assert nano(server.budget()["spent"]) == trace.cost
    assert_balanced()


def test_an_answer_is_delivered_although_its_client_left(
    server: Server, backend: Backend, openai: FakeProvider
) -> None:
    """The run had ended well: what it owes is in the outbox."""
    backend.on(MESSAGES, hangs)
    run(visit(server, Visit("Hello", 1), until=lambda: backend.arrived(MESSAGES)))
    wait_until(settled(1), within=5, what="the trace settled")
    assert Trace.objects.get().status == "success"
    backend.on(MESSAGES)
    run(deliver_due(now=utc_now() + timedelta(minutes=5)))
    assert len(backend.messages) == 1
    assert Trace.objects.get().message_id == backend.messages[0]["id"]
    assert_balanced()


@contextmanager
def database_held() -> Iterator[None]:
    """Nobody else can write meanwhile."""
    with transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("LOCK TABLE traces IN ACCESS EXCLUSIVE MODE")
        yield


@pytest.mark.parametrize("endpoint", ["send", "stream"])
def test_a_client_that_leaves_while_it_is_being_admitted(
    server: Server, backend: Backend, openai: FakeProvider, endpoint: str
) -> None:
    """The admission is committed all the same, so it must be settled: neither money nor trace stays behind."""
    server.set_budget(limit=1)
    run(
        store_snapshot(load_workspace(fresh=True).snapshot_hash, tenant_id=SHARED, now=utc_now())
    )  # what comes before admission
    with database_held():
        run(visit(server, Visit("Hello", -1), endpoint=endpoint, until=lambda: time.sleep(0.2)))
        time.sleep(0.1)
    wait_until(settled(1), within=5, what="the trace settled")
    assert Trace.objects.get().status == "cancelled"
    assert openai.requests == []
    assert backend.calls == []
    assert_balanced()


def test_leaving_under_anothers_trace_id_ends_only_the_own_run(
    server: Server, backend: Backend, openai: FakeProvider
) -> None:
    """Whoever names a running trace and hangs up while being refused must not end that run."""
    taken = "018f4e9a-7c2b-7d3e-8a4f-5b6c7d8e9f00"
    server.set_budget(limit=1)
    openai.script(reply("Done.", delay=0.8))
    with ThreadPoolExecutor() as pool:
        first = pool.submit(server.send, "Hello", headers={"X-Trace-Id": taken})
        run(openai.arrived())
        with database_held():
            named = f"X-Trace-Id: {taken}\r\n"
            run(visit(server, Visit("Mine now", -1), headers=named, until=lambda: time.sleep(0.2)))
            time.sleep(0.1)
        response = first.result()
    assert (response.status_code, response.json().get("response")) == (200, "Done."), response.text
    assert Trace.objects.get().status == "success"
    assert_balanced()
