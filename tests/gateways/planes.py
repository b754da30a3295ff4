"""A scripted backend on a real socket, for control plane clients to ask."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from clasper.gateways import http
from clasper.gateways.control_plane import Caller, ControlPlane, TokenMinter

SECRET = "a-shared-secret-of-at-least-thirty-two-bytes"
ACME = Caller(user_id="user-1", agent_role="assistant", tenant_id="acme", workspace_id="shop", trace_id="trace-1")
GLOBEX = Caller(user_id="user-1", agent_role="assistant", tenant_id="globex")
V1 = {"contract_version": "v1", "features": {"tasks": True, "messages": True, "documents": True}}
WITH_TOOLS = {"contract_version": "1.1.0", "features": ["tasks", "messages", "tool_discover", "tool_execute"]}
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


@asynccontextmanager
async def serving() -> AsyncIterator[Backend]:
    """A backend that listens meanwhile; what it left hanging is answered at the end."""
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


def plane_of(backend: Backend) -> ControlPlane:
    """A client of this backend that hardly waits between attempts."""
    return ControlPlane(backend.url, TokenMinter(secret=SECRET, algorithm="HS256"), first_pause=0.001)


def soon(seconds: float = 5.0) -> float:
    return asyncio.get_running_loop().time() + seconds
