"""Clasper's client and the embedded control plane understand each other, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from django.test.testcases import LiveServerThread, _StaticFilesHandler
from pytest_django import Settings

from apps.control_plane.models import Message, Task
from clasper.core.errors import BackendFailed
from clasper.gateways import http
from clasper.gateways.control_plane import Caller, ControlPlane, check_compatibility, control_plane

ACME = Caller(user_id="user-1", agent_role="support", tenant_id="acme", workspace_id="w", trace_id="trace-1")
GLOBEX = Caller(user_id="user-1", agent_role="support", tenant_id="globex")


@pytest.fixture
def plane(store: None, settings: Settings) -> Iterator[ControlPlane]:
    server = LiveServerThread("127.0.0.1", _StaticFilesHandler)
    server.daemon = True
    server.start()
    server.is_ready.wait()
    settings.CLASPER_PORT = server.port
    yield control_plane()
    server.terminate()


async def find(plane: ControlPlane, caller: Caller = ACME, title: str = "Support") -> str:
    return await plane.find_or_create_task(caller, title=title, description="", metadata={"type": "agent_thread"})


async def stored(query: Callable[[], Any]) -> Any:
    """The result of a query, made in a thread that leaves no connection behind."""

    def run() -> Any:
        try:
            return query()
        finally:
            connection.close()

    return await asyncio.to_thread(run)


async def test_a_whole_run(plane: ControlPlane) -> None:
    try:
        assert (await check_compatibility()).compatible
        capabilities = await plane.capabilities(ACME)
        assert capabilities.tools
        assert capabilities.has("tool_idempotency")
        task_id = await find(plane)
        assert await find(plane) == task_id
        assert await find(plane, GLOBEX) != task_id
        message = await plane.post_message(ACME, task_id=task_id, content="Hi", idempotency_key="run:message")
        assert await plane.post_message(ACME, task_id=task_id, content="Hi", idempotency_key="run:message") == message
        with pytest.raises(BackendFailed) as failed:
            await plane.post_message(ACME, task_id=task_id, content="Other", idempotency_key="run:message")
        assert failed.value.details["status"] == 409
        with pytest.raises(BackendFailed) as failed:
            await plane.post_message(GLOBEX, task_id=task_id, content="Hi", idempotency_key="run:message")
        assert failed.value.details["status"] == 404
        assert await plane.post_document(
            ACME, task_id=task_id, title="Plan", content="1.", doc_type="plan", idempotency_key="run:document"
        )
        names = [tool.name for tool in await plane.list_tools(ACME)]
        assert names == ["customers:search", "orders:lookup", "orders:refund"]
        found = await plane.call_tool(
            ACME, "orders:lookup", {"order_id": "ORD-1001"}, idempotency_key="run:call-1", timeout=5
        )
        assert found.ok
        assert found.result["total"] == 114.0
        missing = await plane.call_tool(
            ACME, "orders:lookup", {"order_id": "ORD-1"}, idempotency_key="run:call-2", timeout=5
        )
        assert (missing.ok, missing.error, missing.status) == (False, "No such order.", 404)
    finally:
        await http.close_session()
    assert await stored(lambda: list(Message.objects.values_list("trace_id", flat=True))) == ["trace-1"]


async def test_ten_runs_at_once_share_one_task(plane: ControlPlane) -> None:
    try:
        ids = await asyncio.gather(*(find(plane) for _ in range(10)))
    finally:
        await http.close_session()
    assert len(set(ids)) == 1
    assert await stored(Task.objects.count) == 1
