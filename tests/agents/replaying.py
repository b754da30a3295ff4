"""Asking for replays over HTTP."""

from __future__ import annotations

from typing import Any

from fakes.llm import FakeProvider, reply, tool_calls
from tests.world import Server

ORDER = ("orders_lookup", '{"order_id": "ORD-1002"}')


def ask_for_order(server: Server, openai: FakeProvider, **body: Any) -> str:
    """The trace of a run of two rounds with a tool."""
    openai.script(tool_calls(ORDER), reply("It was shipped."))
    answer = server.send("Where is ORD-1002?", **body)
    assert answer.status_code == 200, answer.text
    trace_id: str = answer.json()["trace_id"]
    return trace_id


def told(server: Server, trace_id: str, **options: Any) -> dict[str, Any]:
    """What a run was asked."""
    response = server.get(f"/traces/{trace_id}/replay", **options)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def again(server: Server, trace_id: str, *, key: str | None = None, **changes: Any) -> dict[str, Any]:
    """The answer to a replay with these changes."""
    response = server.post(f"/traces/{trace_id}/replay", changes, key=key)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def refused(server: Server, trace_id: str, status: int, code: str, *, key: str | None = None, **changes: Any) -> Any:
    """The error of a replay that is refused."""
    response = server.post(f"/traces/{trace_id}/replay", changes, key=key)
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    return response.json()
