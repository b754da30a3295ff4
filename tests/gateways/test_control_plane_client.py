"""The control plane client against a backend that answers late, wrongly, twice, too much, or not at all."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import jwt
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from clasper.core.errors import BackendFailed, Unavailable
from clasper.gateways import http
from clasper.gateways.control_plane import (
    Caller,
    ControlPlane,
    TokenMinter,
    ToolOutcome,
    backend_url,
    check_compatibility,
    control_plane,
    mint_agent_token,
)
from clasper.gateways.control_plane.capabilities import judge, parse_capabilities
from clasper.gateways.control_plane.tokens import MAX_TOKENS
from clasper.gateways.control_plane.transport import retry_after
from clasper.gateways.guard import UrlRefused, allowlist

SECRET = "a-shared-secret-of-at-least-thirty-two-bytes"
ACME = Caller(user_id="user-1", agent_role="assistant", tenant_id="acme", workspace_id="shop", trace_id="trace-1")
GLOBEX = Caller(user_id="user-1", agent_role="assistant", tenant_id="globex")
V1 = {"contract_version": "v1", "features": {"tasks": True, "messages": True, "documents": True}}
WITH_TOOLS = {"contract_version": "1.1.0", "features": ["tasks", "messages", "tool_discover", "tool_execute"]}
TASKS = "/api/mission-control/tasks"
CAPABILITIES = "/api/mission-control/capabilities"

Reply = Callable[[web.Request], web.StreamResponse]


def answers(status: int = 200, body: Any = None, **headers: str) -> Reply:
    return lambda request: web.json_response(body, status=status, headers=headers)


def raw(body: bytes, status: int = 200) -> Reply:
    return lambda request: web.Response(body=body, status=status, content_type="application/json")


def lost(request: web.Request) -> web.StreamResponse:
    """The request arrived, its answer never does."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Backend:
    """A scripted backend: each route gives its replies in turn, the last one for ever."""

    url: str = ""
    script: dict[str, list[Reply]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    hang: asyncio.Event = field(default_factory=asyncio.Event)

    def on(self, route: str, *replies: Reply) -> None:
        self.script[route] = list(replies)

    def hits(self, route: str) -> list[Seen]:
        method, _, path = route.partition(" ")
        return [each for each in self.seen if (each.method, each.path) == (method, path)]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        path = request.rel_url.raw_path
        self.seen.append(
            Seen(request.method, path, dict(request.query), dict(request.headers), json.loads(body) if body else None)
        )
        replies = self.script.get(f"{request.method} {path}")
        if not replies:
            return web.json_response({"error": "No such route."}, status=404)
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if reply is slow:
            await self.hang.wait()
        return reply(request)


def slow(request: web.Request) -> web.StreamResponse:
    return web.Response()


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    found = Backend()
    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", found.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    found.hang.set()
    await http.close_session()
    await runner.cleanup()


@pytest.fixture
def plane(backend: Backend) -> ControlPlane:
    return ControlPlane(backend.url, TokenMinter(secret=SECRET, algorithm="HS256"), first_pause=0.001)


def soon(seconds: float = 5.0) -> float:
    return asyncio.get_running_loop().time() + seconds


def page(*titles: str, cursor: str | None = None) -> Reply:
    return answers(body={"items": [{"id": f"id-{title}", "title": title} for title in titles], "next_cursor": cursor})


async def task(plane: ControlPlane, title: str = "Support", **changes: Any) -> str:
    given: dict[str, Any] = {"description": "d", "metadata": {"type": "agent_thread"}, "deadline": soon()}
    return await plane.find_or_create_task(ACME, title=title, **(given | changes))


async def message(plane: ControlPlane, **changes: Any) -> str:
    given: dict[str, Any] = {"task_id": "t", "content": "Hi", "idempotency_key": "run-1:message", "deadline": soon()}
    return await plane.post_message(ACME, **(given | changes))


# --- Tokens ------------------------------------------------------------------------------------------------------


def test_the_tokens_claims(now: datetime) -> None:
    token = mint_agent_token(
        user_id="u", agent_role="jarvis", tenant_id="acme", secret=SECRET, algorithm="HS256", now=now, agent_id="a-1"
    )
    claims = jwt.decode(token, options={"verify_signature": False})
    issued = int(now.timestamp())
    assert len(claims.pop("jti")) == 36
    assert claims == {
        "type": "agent",
        "user_id": "u",
        "agent_role": "jarvis",
        "tenant_id": "acme",
        "agent_id": "a-1",
        "sub": "clasper:jarvis",
        "aud": "control-plane",
        "iat": issued,
        "exp": issued + 600,
    }


def test_no_secret_no_token(now: datetime) -> None:
    with pytest.raises(Unavailable):
        mint_agent_token(user_id="u", agent_role="r", tenant_id="t", secret="", algorithm="HS256", now=now)


def test_a_token_is_used_for_five_minutes_by_its_owner_only(now: datetime) -> None:
    clock = [now]
    minter = TokenMinter(secret=SECRET, algorithm="HS256", clock=lambda: clock[0])

    def token(user: str = "u", role: str = "r", tenant: str = "t") -> str:
        return minter.token(user_id=user, agent_role=role, tenant_id=tenant)

    first = token()
    clock[0] = now + timedelta(minutes=4, seconds=59)
    assert token() == first
    assert len({first, token(user="v"), token(role="s"), token(tenant="x")}) == 4
    clock[0] = now + timedelta(minutes=5)
    assert token() != first
    clock[0] = now - timedelta(hours=1)
    assert jwt.decode(token(), options={"verify_signature": False})["iat"] == int(clock[0].timestamp())


def test_the_minter_forgets_the_oldest(now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_TOKENS >= 1000
    monkeypatch.setattr("clasper.gateways.control_plane.tokens.MAX_TOKENS", 2)
    minter = TokenMinter(secret=SECRET, algorithm="HS256", clock=lambda: now)
    first = minter.token(user_id="0", agent_role="r", tenant_id="t")
    for user in "12":
        minter.token(user_id=user, agent_role="r", tenant_id="t")
    assert minter.token(user_id="0", agent_role="r", tenant_id="t") != first


# --- Capabilities ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "version", "has", "lacks"),
    [
        (V1, "v1", {"tasks", "task_list", "documents", "document_post"}, {"tools"}),
        ({"features": {"tasks": True, "messages": False}}, "", {"tasks"}, {"messages", "message_post"}),
        ({"contract_version": "1.2.0", "features": ["task_list", "task_create", "message_post"]}, "1.2.0",
         {"tasks", "messages"}, {"documents"}),
        ({"features": ["task_list"]}, "", {"task_list"}, {"tasks"}),
        (WITH_TOOLS, "1.1.0", {"tools"}, {"documents"}),
        ({"features": {}, "tools": True}, "", {"tools", "tool_discover", "tool_execute"}, {"tasks"}),
        ({"features": {"tools": True}}, "", {"tools"}, set()),
        ({"features": {"tool_discover": True}}, "", {"tool_discover"}, {"tools"}),
        ({"features": [], "tools": "yes"}, "", set(), {"tools"}),
        ({"features": [1, None, "tasks"], "contract_version": 1}, "", {"tasks"}, set()),
    ],
)  # fmt: skip
def test_spellings_of_capabilities(document: Any, version: str, has: set[str], lacks: set[str]) -> None:
    found = parse_capabilities(document)
    assert found is not None
    assert found.contract_version == version
    assert has <= found.features
    assert not lacks & found.features


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda each: st.lists(each) | st.dictionaries(st.text(), each),
    max_leaves=10,
)


@given(JSON)
def test_any_json_is_read_or_refused(document: Any) -> None:
    found = parse_capabilities(document)
    assert found is None or judge(found).clasper_contract_version == "1.1.0"
    parse_capabilities({"features": document})


async def test_capabilities_are_asked_once_a_minute_and_tenant(plane: ControlPlane, backend: Backend) -> None:
    backend.on(f"GET {CAPABILITIES}", answers(body=V1))
    found = await asyncio.gather(*(plane.capabilities(ACME) for _ in range(20)))
    assert all(each.has("documents") and not each.tools for each in found)
    assert len(backend.seen) == 1
    await plane.capabilities(GLOBEX)
    assert len(backend.seen) == 2


@pytest.mark.parametrize("first", [answers(404), answers(401), raw(b"<html>"), answers(body={"ok": True})])
async def test_the_old_path_is_the_fallback(plane: ControlPlane, backend: Backend, first: Reply) -> None:
    backend.on(f"GET {CAPABILITIES}", first)
    backend.on("GET /api/capabilities", answers(body=WITH_TOOLS))
    assert (await plane.capabilities(ACME)).tools


async def test_without_an_answer_nothing_optional_is_assumed(plane: ControlPlane, backend: Backend) -> None:
    backend.on(f"GET {CAPABILITIES}", lost)
    found = await plane.capabilities(ACME, deadline=soon())
    assert not found.known
    assert not found.features
    asked = len(backend.seen)
    await plane.capabilities(ACME)
    assert len(backend.seen) == asked


async def test_a_cancelled_asker_takes_nothing_from_the_others(plane: ControlPlane, backend: Backend) -> None:
    backend.on(f"GET {CAPABILITIES}", slow, answers(body=V1))
    impatient = asyncio.create_task(plane.capabilities(ACME))
    patient = asyncio.create_task(plane.capabilities(ACME))
    late = await plane.capabilities(ACME, deadline=soon(0.01))
    assert not late.known
    impatient.cancel()
    backend.on("GET /api/capabilities", answers(body=V1))
    backend.hang.set()
    assert (await patient).has("tasks")


# --- Tasks -------------------------------------------------------------------------------------------------------


async def test_a_title_is_matched_exactly_over_all_pages(plane: ControlPlane, backend: Backend) -> None:
    backend.on(f"GET {TASKS}", page("support", "Support ", cursor="a/b?&"), page("Support"))
    assert await task(plane) == "id-Support"
    first, second = backend.hits(f"GET {TASKS}")
    assert first.query == {"limit": "50"}
    assert second.query == {"limit": "50", "cursor": "a/b?&"}
    assert not backend.hits(f"POST {TASKS}")


async def test_a_cursor_that_goes_round_ends(plane: ControlPlane, backend: Backend) -> None:
    backend.on(f"GET {TASKS}", page("x", cursor="1"), page("y", cursor="2"), page("z", cursor="1"))
    backend.on(f"POST {TASKS}", answers(body={"id": "new"}))
    assert await task(plane) == "new"
    assert len(backend.hits(f"GET {TASKS}")) == 3


async def test_pages_are_bounded(plane: ControlPlane, backend: Backend) -> None:
    numbers = iter(range(1000))
    backend.on(f"GET {TASKS}", lambda request: page("x", cursor=str(next(numbers)))(request))
    backend.on(f"POST {TASKS}", answers(body={"id": "new"}))
    assert await task(plane) == "new"
    assert len(backend.hits(f"GET {TASKS}")) == 20


@pytest.mark.parametrize(("status", "identity"), [(200, "new"), (201, "new"), (201, 7)])
async def test_a_missing_task_is_made(plane: ControlPlane, backend: Backend, status: int, identity: Any) -> None:
    backend.on(f"GET {TASKS}", page("Other"))
    backend.on(f"POST {TASKS}", answers(status, {"id": identity}))
    assert await task(plane) == str(identity)
    (sent,) = backend.hits(f"POST {TASKS}")
    key = sent.body.pop("idempotency_key")
    assert key.startswith("clasper:task:")
    assert sent.body == {
        "title": "Support",
        "description": "d",
        "status": "in_progress",
        "metadata": {"type": "agent_thread"},
    }
    claims = jwt.decode(sent.headers["X-Agent-Token"], SECRET, algorithms=["HS256"], audience="control-plane")
    assert (claims["user_id"], claims["tenant_id"], claims["agent_role"]) == ("user-1", "acme", "assistant")
    assert sent.headers["X-Trace-ID"] == "trace-1"


async def test_the_key_of_a_task_is_its_tenant_user_and_title(plane: ControlPlane, backend: Backend) -> None:
    backend.on(f"GET {TASKS}", page())
    backend.on(f"POST {TASKS}", answers(body={"id": "new"}))
    await task(plane)
    await task(plane, description="another")
    await task(plane, title="support")
    await plane.find_or_create_task(GLOBEX, title="Support", description="d", metadata={})
    keys = [each.body["idempotency_key"] for each in backend.hits(f"POST {TASKS}")]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


async def test_a_racing_run_made_the_task(plane: ControlPlane, backend: Backend) -> None:
    backend.on(f"GET {TASKS}", page(), page("Support"))
    backend.on(f"POST {TASKS}", answers(409, {"error": "used"}))
    assert await task(plane) == "id-Support"


async def test_the_task_of_the_key_was_renamed(plane: ControlPlane, backend: Backend) -> None:
    backend.on(f"GET {TASKS}", page("Renamed"))
    backend.on(f"POST {TASKS}", answers(409, {"error": "used"}), answers(201, {"id": "second"}))
    assert await task(plane) == "second"
    backend.on(f"POST {TASKS}", answers(409))
    with pytest.raises(BackendFailed) as failed:
        await task(plane)
    assert failed.value.details == {"operation": "create the task", "status": 409}


# --- Messages and documents --------------------------------------------------------------------------------------


async def test_a_message_and_a_document(plane: ControlPlane, backend: Backend) -> None:
    backend.on("POST /api/mission-control/messages", answers(201, {"id": "m-1"}))
    backend.on("POST /api/mission-control/documents", answers(200, {"id": "d-1"}))
    assert await message(plane, attachments={"a": 1}) == "m-1"
    assert (
        await plane.post_document(
            ACME, task_id="t", title="Plan", content="1.", doc_type="plan", idempotency_key="run-1:document"
        )
        == "d-1"
    )
    assert backend.seen[0].body == {
        "task_id": "t",
        "content": "Hi",
        "actor_type": "agent",
        "agent_role": "assistant",
        "attachments": {"a": 1},
        "idempotency_key": "run-1:message",
    }
    assert backend.seen[1].body == {
        "title": "Plan",
        "content": "1.",
        "doc_type": "plan",
        "task_id": "t",
        "idempotency_key": "run-1:document",
    }


@pytest.mark.parametrize(
    "trouble",
    [lost, *(answers(status) for status in (408, 425, 500, 502, 503)), answers(429, None, **{"Retry-After": "0"})],
)
async def test_what_may_pass_is_tried_again_with_the_same_key(
    plane: ControlPlane, backend: Backend, trouble: Reply
) -> None:
    backend.on("POST /api/mission-control/messages", trouble, trouble, answers(201, {"id": "m-1"}))
    assert await message(plane) == "m-1"
    assert {each.body["idempotency_key"] for each in backend.seen} == {"run-1:message"}
    assert len(backend.seen) == 3


@pytest.mark.parametrize(
    ("reply", "status", "tries"),
    [
        (answers(400, {"error": "SECRET INTERNALS"}), 400, 1),
        (answers(404), 404, 1),
        (answers(409), 409, 1),
        (answers(401), 401, 1),
        (answers(403), 403, 1),
        (answers(302, None, Location="/elsewhere"), 302, 1),
        (answers(500, {"error": "SECRET INTERNALS"}), 500, 3),
        (lost, 0, 3),
        (raw(b"not json"), 0, 1),
        (raw(b"[]"), 0, 1),
        (raw(b"\xff\xfe"), 0, 1),
        (answers(body={}), 0, 1),
        (answers(body={"id": None}), 0, 1),
        (answers(body={"id": True}), 0, 1),
        (answers(body={"id": ""}), 0, 1),
        (raw(b'{"id": "' + b"x" * (5 * 1024 * 1024) + b'"}'), 0, 1),
    ],
)
async def test_failures(plane: ControlPlane, backend: Backend, reply: Reply, status: int, tries: int) -> None:
    backend.on("POST /api/mission-control/messages", reply)
    with pytest.raises(BackendFailed) as failed:
        await message(plane)
    error = failed.value
    assert (error.status, error.error_code) == (502, "backend_error")
    assert error.details == {"operation": "post the message", "status": status}
    assert len(backend.seen) == tries
    assert "SECRET" not in str(error)
    assert "127.0.0.1" not in str(error)
    assert ("refused the agent token" in error.message) is (status in (401, 403))


async def test_nobody_listens(unused_tcp_port: int) -> None:
    plane = ControlPlane(
        f"http://127.0.0.1:{unused_tcp_port}", TokenMinter(secret=SECRET, algorithm="HS256"), first_pause=0.001
    )
    with pytest.raises(BackendFailed, match="could not be reached"):
        await message(plane)
    with pytest.raises(BackendFailed):
        await plane.ping()
    await http.close_session()


async def test_the_deadline_holds_while_waiting(plane: ControlPlane, backend: Backend) -> None:
    backend.on("POST /api/mission-control/messages", slow)
    with pytest.raises(BackendFailed, match="in time"):
        await message(plane, deadline=soon(0.05))


async def test_a_pause_beyond_the_deadline_is_not_waited_for(plane: ControlPlane, backend: Backend) -> None:
    backend.on("POST /api/mission-control/messages", answers(429, None, **{"Retry-After": "3600"}))
    async with asyncio.timeout(2):
        with pytest.raises(BackendFailed):
            await message(plane)
    assert len(backend.seen) == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, 0), ("", 0), ("3", 3), (" 12 ", 12), ("-3", 0), ("1.5", 0), ("soon", 0), ("²", 0),
     ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("9" * 400, 999999999)],
)  # fmt: skip
def test_retry_after(value: str | None, seconds: float) -> None:
    assert retry_after(value) == seconds


async def test_ids_that_no_header_may_hold_are_encoded(plane: ControlPlane, backend: Backend) -> None:
    odd = Caller(user_id="u\r\nX-Evil: 1", agent_role="r", tenant_id="t\r\nX-Evil: 1", workspace_id="wørk")
    await plane.call_tool(odd, "x", {}, idempotency_key="k", timeout=5)
    headers = backend.seen[0].headers
    assert headers["X-Tenant-ID"] == "t%0D%0AX-Evil%3A 1"
    assert headers["X-Workspace-ID"] == "w%C3%B8rk"
    assert "X-Evil" not in headers


async def test_a_deprecation_is_logged_once(
    plane: ControlPlane, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.on("POST /api/mission-control/messages", answers(201, {"id": "m"}, Warning='299 - "Deprecated: use v2"'))
    with caplog.at_level(logging.WARNING, logger="clasper.control_plane"):
        await message(plane)
        await message(plane)
    assert [record.getMessage() for record in caplog.records] == [
        'the control plane warns about post the message: 299 - "Deprecated: use v2"'
    ]


# --- Tools -------------------------------------------------------------------------------------------------------


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


# --- Health, settings, compatibility -----------------------------------------------------------------------------


async def test_ping_asks_once_and_shows_no_token(plane: ControlPlane, backend: Backend) -> None:
    backend.on("GET /health", answers(body={"status": "ok"}))
    await plane.ping()
    assert "X-Agent-Token" not in backend.seen[0].headers
    backend.on("GET /health", answers(500))
    with pytest.raises(BackendFailed):
        await plane.ping()
    assert len(backend.seen) == 2
    backend.on("GET /health", slow)
    with pytest.raises(BackendFailed):
        await plane.ping(timeout=0.05)


def test_the_configured_control_plane_follows_the_settings(settings: Settings) -> None:
    settings.BACKEND_URL = ""
    settings.CLASPER_PORT = 8099
    assert backend_url() == "http://127.0.0.1:8099"
    settings.BACKEND_URL = "https://backend.example"
    first = control_plane()
    assert first.base_url == "https://backend.example"
    assert control_plane() is first
    settings.AGENT_JWT_SECRET = SECRET
    assert control_plane() is not first


@pytest.mark.parametrize(
    ("document", "compatible", "version", "missing", "warnings"),
    [
        (V1, True, "v1", (), 1),
        ({"contract_version": "1.1.0", "features": ["tasks", "messages"]}, True, "1.1.0", (), 2),
        (WITH_TOOLS, True, "1.1.0", (), 1),
        ({"features": {"tasks": True, "messages": True}}, True, None, (), 3),
        ({"contract_version": "v2", "features": {"tasks": True, "messages": True}}, False, "v2", (), 2),
        ({"contract_version": "one", "features": {"tasks": True, "messages": True}}, False, "one", (), 2),
        ({"contract_version": "v1", "features": {"tasks": True}}, False, "v1", ("messages",), 2),
        ({"contract_version": "v1", "features": {}}, False, "v1", ("tasks", "messages"), 2),
    ],
)
async def test_compatibility(
    backend: Backend,
    settings: Settings,
    document: Any,
    compatible: bool,
    version: str | None,
    missing: tuple[str, ...],
    warnings: int,
) -> None:
    settings.BACKEND_URL = backend.url
    settings.AGENT_JWT_SECRET = SECRET
    backend.on(f"GET {CAPABILITIES}", answers(body=document))
    found = await check_compatibility()
    assert (found.compatible, found.control_plane_contract_version, found.missing_features) == (
        compatible,
        version,
        missing,
    )
    assert len(found.warnings) == warnings
    assert bool(found.error) is not compatible
    assert found.clasper_contract_version == "1.1.0"


async def test_a_foreign_control_plane_is_asked_under_the_guard(backend: Backend, settings: Settings) -> None:
    settings.BACKEND_URL = "https://backend.example"
    backend.on(f"GET {CAPABILITIES}", answers(body=V1))
    for url in (backend.url, backend.url.replace("127.0.0.1", "localhost"), "ftp://x", "nonsense"):
        with pytest.raises(UrlRefused):
            await check_compatibility(url, allowed=allowlist([]))
    assert backend.seen == []
    found = await check_compatibility(f"{backend.url}/?x=1", allowed=allowlist(["127.0.0.1"]))
    assert found.compatible
    assert "X-Agent-Token" in backend.seen[0].headers


async def test_a_foreign_control_plane_sees_no_token(
    backend: Backend, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.BACKEND_URL = "https://backend.example"
    monkeypatch.setattr("clasper.gateways.control_plane.is_listed", lambda url, allowed: False)
    backend.on(f"GET {CAPABILITIES}", answers(body=V1))
    await check_compatibility(backend.url, allowed=allowlist(["127.0.0.1"]))
    assert "X-Agent-Token" not in backend.seen[0].headers


async def test_the_backends_own_address_needs_no_listing(backend: Backend, settings: Settings) -> None:
    settings.BACKEND_URL = backend.url
    backend.on(f"GET {CAPABILITIES}", answers(body=V1))
    assert (await check_compatibility(f"{backend.url}/", allowed=allowlist([]))).compatible
    backend.on(f"GET {CAPABILITIES}", lost)


async def test_an_unreachable_control_plane_is_incompatible(unused_tcp_port: int, settings: Settings) -> None:
    settings.BACKEND_URL = f"http://127.0.0.1:{unused_tcp_port}"
    found = await check_compatibility()
    assert not found.compatible
    assert found.error
    assert found.missing_features == ("tasks", "messages")
    await http.close_session()
