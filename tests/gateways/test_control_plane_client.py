"""The control plane client against a backend that answers late, wrongly, twice, too much, or not at all."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import jwt
import pytest

from clasper.core.errors import BackendFailed
from clasper.gateways import http
from clasper.gateways.control_plane import Caller, ControlPlane, TokenMinter
from tests.gateways.planes import (
    ACME,
    GLOBEX,
    SECRET,
    Backend,
    Reply,
    answers,
    lost,
    raw,
    slow,
    soon,
)

TASKS = "/api/mission-control/tasks"


def page(*titles: str, cursor: str | None = None) -> Reply:
    return answers(body={"items": [{"id": f"id-{title}", "title": title} for title in titles], "next_cursor": cursor})


async def task(plane: ControlPlane, title: str = "Support", **changes: Any) -> str:
    given: dict[str, Any] = {"description": "d", "metadata": {"type": "agent_thread"}, "deadline": soon()}
    return await plane.find_or_create_task(ACME, title=title, **(given | changes))


async def message(plane: ControlPlane, **changes: Any) -> str:
    given: dict[str, Any] = {"task_id": "t", "content": "Hi", "idempotency_key": "run-1:message", "deadline": soon()}
    return await plane.post_message(ACME, **(given | changes))


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
