"""Tools of the control plane: discovered, called, and called again only where that is safe."""

from __future__ import annotations

from typing import Any

import pytest

from clasper.core.errors import BackendFailed
from clasper.gateways.control_plane import ControlPlane, ToolOutcome
from tests.gateways.planes import (
    ACME,
    CAPABILITIES,
    V1,
    WITH_TOOLS,
    Backend,
    Reply,
    answers,
    lost,
    raw,
    slow,
    soon,
)


def offer_tools(backend: Backend, *tools: Any, **capabilities: Any) -> None:
    backend.on(f"GET {CAPABILITIES}", answers(body=WITH_TOOLS | capabilities))
    backend.on("GET /api/tools", answers(body={"tools": list(tools)}))


async def test_tools_are_listed_once_a_minute_and_bad_entries_skipped(plane: ControlPlane, backend: Backend) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "string"}}}
    good = {"name": "orders:lookup", "description": "Looks.", "parameters": schema}
    offer_tools(
        backend,
        good,
        {**good, "description": "Twice."},
        {"name": "bare"},
        {"name": ""},
        {"name": 7},
        {"name": "list", "parameters": []},
        {"description": "nameless"},
        "text",
        None,
    )
    tools = await plane.list_tools(ACME)
    assert [(each.name, each.description) for each in tools] == [("orders:lookup", "Looks."), ("bare", "")]
    assert tools[0].parameters == schema
    assert await plane.list_tools(ACME) == tools
    (sent,) = backend.hits("GET /api/tools")
    assert sent.headers["X-Tenant-ID"] == "acme"
    assert sent.headers["X-Agent-Token"]


async def test_without_the_capability_tools_are_not_asked_for(plane: ControlPlane, backend: Backend) -> None:
    backend.on(f"GET {CAPABILITIES}", answers(body=V1))
    assert await plane.list_tools(ACME) == ()
    assert not backend.hits("GET /api/tools")


async def test_announced_and_absent_is_none(plane: ControlPlane, backend: Backend) -> None:
    backend.on(f"GET {CAPABILITIES}", answers(body=WITH_TOOLS))
    assert await plane.list_tools(ACME) == ()


@pytest.mark.parametrize("reply", [answers(500), raw(b"{"), answers(body={"tools": {}}), lost])
async def test_announced_and_failing_is_an_error(plane: ControlPlane, backend: Backend, reply: Reply) -> None:
    offer_tools(backend)
    backend.on("GET /api/tools", reply)
    with pytest.raises(BackendFailed):
        await plane.list_tools(ACME)


async def call(plane: ControlPlane, name: str = "orders:lookup", **changes: Any) -> ToolOutcome:
    given: dict[str, Any] = {"idempotency_key": "run-1:call-1", "timeout": 5.0} | changes
    return await plane.call_tool(ACME, name, {"order_id": "ORD-1"}, **given)


async def test_a_tool_call_on_the_wire(plane: ControlPlane, backend: Backend) -> None:
    backend.on("POST /api/tools/orders%3Alookup", answers(body={"status": "paid"}))
    outcome = await call(plane)
    assert (outcome.ok, outcome.result, outcome.error, outcome.status) == (True, {"status": "paid"}, "", 200)
    (sent,) = backend.seen
    assert sent.body == {
        "arguments": {"order_id": "ORD-1"},
        "tenant_id": "acme",
        "workspace_id": "shop",
        "trace_id": "trace-1",
        "idempotency_key": "run-1:call-1",
    }
    assert {name: sent.headers[name] for name in ("X-Tenant-ID", "X-Workspace-ID", "X-Trace-ID")} == {
        "X-Tenant-ID": "acme",
        "X-Workspace-ID": "shop",
        "X-Trace-ID": "trace-1",
    }


async def test_a_tools_name_cannot_leave_its_path(plane: ControlPlane, backend: Backend) -> None:
    await call(plane, "../../admin?x=1#y")
    assert backend.seen[0].path == "/api/tools/..%2F..%2Fadmin%3Fx%3D1%23y"


@pytest.mark.parametrize(
    ("reply", "ok", "result", "error"),
    [
        (answers(body=None), True, None, ""),
        (raw(b"", 204), True, None, ""),
        (answers(body=[1, "x"]), True, [1, "x"], ""),
        (raw(b"<html>"), False, None, "not JSON"),
        (answers(body="x" * 2000), False, None, "larger than 1024 bytes"),
        (answers(404, {"error": "No such order."}), False, None, "No such order."),
        (answers(400, {"error": "y" * 900}), False, None, "y" * 500),
        (answers(400, ["odd"]), False, None, "answered 400"),
        (raw(b"garbage", 422), False, None, "answered 422"),
        (answers(401, {"error": "internals"}), False, None, "refused"),
        (answers(500, {"error": "internals"}), False, None, "answered 500"),
    ],
)
async def test_how_a_tool_call_ends(
    plane: ControlPlane, backend: Backend, reply: Reply, ok: bool, result: Any, error: str
) -> None:
    backend.on("POST /api/tools/orders%3Alookup", reply)
    outcome = await call(plane, max_bytes=1024)
    assert (outcome.ok, outcome.result) == (ok, result)
    assert error in outcome.error
    assert "internals" not in outcome.error
    assert len(outcome.error) <= 500


async def test_a_tool_that_may_have_acted_is_called_again_only_if_that_is_safe(
    plane: ControlPlane, backend: Backend
) -> None:
    route = "POST /api/tools/orders%3Alookup"
    for trouble in (lost, answers(500)):
        backend.on(route, trouble)
        outcome = await call(plane)
        assert not outcome.ok
    assert len(backend.hits(route)) == 2
    backend.on(route, answers(503), answers(429), answers(body=1))
    assert (await call(plane)).ok
    assert len(backend.hits(route)) == 5
    offer_tools(backend, features=[*WITH_TOOLS["features"], "tool_idempotency"])
    await plane.list_tools(ACME)
    backend.on(route, lost, answers(500), answers(body=1))
    assert (await call(plane)).ok
    assert len(backend.hits(route)) == 8


async def test_a_tools_time_is_limited(plane: ControlPlane, backend: Backend) -> None:
    backend.on("POST /api/tools/orders%3Alookup", slow)
    assert "in time" in (await call(plane, timeout=0.05)).error
    assert "in time" in (await call(plane, deadline=soon(0.05))).error
