"""A control plane for tests: contract v1 in memory, behind a real socket on a thread of its own, and scriptable.

By default it does what the contract says. `backend.on(MESSAGES, lost, answers(500))` makes the next requests of that
route meet those replies in turn; the last one stays until `backend.on(MESSAGES)` clears the route.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aiohttp import web

CAPABILITIES = "GET /api/mission-control/capabilities"
LIST_TASKS = "GET /api/mission-control/tasks"
TASKS = "POST /api/mission-control/tasks"
MESSAGES = "POST /api/mission-control/messages"
DOCUMENTS = "POST /api/mission-control/documents"
TOOLS = "GET /api/tools"


@dataclass(frozen=True, slots=True)
class Call:
    """A request that arrived. `accept()` does what the contract says and gives the answer to it."""

    backend: Backend
    request: web.Request
    route: str
    body: Any

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.request.headers)

    def accept(self) -> web.Response:
        return self.backend.accept(self)

    def abort(self) -> web.Response:
        """Breaks the connection; nothing that is returned arrives."""
        if self.request.transport is not None:
            self.request.transport.abort()
        return web.Response()


Reply = Callable[[Call], Awaitable[web.StreamResponse]]
Tool = Callable[[dict[str, Any]], Any]


async def accepts(call: Call) -> web.StreamResponse:
    """What the contract says."""
    return call.accept()


async def lost(call: Call) -> web.StreamResponse:
    """The request takes effect; its answer never arrives."""
    call.accept()
    return call.abort()


async def unheard(call: Call) -> web.StreamResponse:
    """The connection breaks before anything happens."""
    return call.abort()


async def hangs(call: Call) -> web.StreamResponse:
    """Nothing happens, and nothing is said, until the backend closes."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def accepts_and_hangs(call: Call) -> web.StreamResponse:
    """The request takes effect, and nothing is said until the backend closes."""
    call.accept()
    return await hangs(call)


def answers(status: int, body: Any = None, **headers: str) -> Reply:
    """This status and JSON, and no effect."""

    async def reply(call: Call) -> web.StreamResponse:
        return web.json_response(body or {"error": f"fake {status}"}, status=status, headers=headers)

    return reply


def raw(content: bytes, *, status: int = 200) -> Reply:
    """These bytes, called JSON."""

    async def reply(call: Call) -> web.StreamResponse:
        return web.Response(body=content, status=status, content_type="application/json")

    return reply


GARBAGE = raw(b"<html>Bad gateway</html>")
HUGE = raw(b'{"id": "' + b"x" * (6 * 1024 * 1024) + b'"}')


@dataclass
class Backend:
    """The fake. `calls` is every request in order; tasks, messages and documents are what took effect.

    `tools` maps the name of a tool to what it does: a function of its arguments that gives the JSON result, or a
    response to send as it is.
    """

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    documents: list[dict[str, Any]] = field(default_factory=list)
    tools: dict[str, Tool] = field(default_factory=dict)
    _keys: dict[tuple[str, str], tuple[Any, dict[str, Any]]] = field(default_factory=dict)
    _scripts: dict[str, list[Reply]] = field(default_factory=dict)
    _ids: count[int] = field(default_factory=lambda: count(1))
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _thread: threading.Thread | None = None

    @classmethod
    def start(cls, port: int = 0) -> Backend:
        """A backend that already listens; `close()` ends it."""
        backend = cls()
        started: Future[None] = Future()
        backend._thread = threading.Thread(target=backend._run, args=(port, started), name="fake-backend", daemon=True)
        backend._thread.start()
        started.result(10)
        return backend

    def close(self) -> None:
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._thread = None

    def on(self, route: str, *replies: Reply) -> None:
        """How the next requests of the route are answered, in turn, the last one for ever; nothing: by the contract."""
        self._scripts[route] = list(replies)

    def hits(self, route: str) -> list[Call]:
        return [call for call in self.calls if call.route == route]

    @property
    def writes(self) -> list[Call]:
        """Requests that would change something."""
        return [call for call in self.calls if call.route.startswith("POST")]

    def arrived(self, route: str, number: int = 1, *, within: float = 10.0) -> None:
        """Waits for so many requests of the route. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.hits(route)) >= number, within):
                raise TimeoutError(f"no {route} within {within} s")

    # --- The contract ------------------------------------------------------------------------------------------------

    def accept(self, call: Call) -> web.Response:
        route, body = call.route, call.body
        if route == CAPABILITIES:
            features = {"tasks": True, "messages": True, "documents": True, "tools": bool(self.tools)}
            return web.json_response({"contract_version": "v1", "features": features})
        if route == LIST_TASKS:
            return web.json_response({"items": self.tasks, "next_cursor": None})
        if route == TASKS:
            return self._create(call, self.tasks)
        if route in (MESSAGES, DOCUMENTS):
            if body["task_id"] not in {task["id"] for task in self.tasks}:
                return web.json_response({"error": "No such task.", "code": "not_found"}, status=404)
            return self._create(call, self.messages if route == MESSAGES else self.documents)
        if route == TOOLS:
            names = sorted(self.tools)
            return web.json_response(
                {"tools": [{"name": name, "description": name, "parameters": {}} for name in names]}
            )
        name = call.request.path.removeprefix("/api/tools/")
        if call.request.method == "POST" and name in self.tools:
            result = self.tools[name](body["arguments"])
            return result if isinstance(result, web.Response) else web.json_response(result)
        return web.json_response({"error": "No such route.", "code": "not_found"}, status=404)

    def _create(self, call: Call, rows: list[dict[str, Any]]) -> web.Response:
        key = (call.route, call.body["idempotency_key"])
        if key in self._keys:
            body, row = self._keys[key]
            if body != call.body:
                return web.json_response({"error": "Key reused.", "code": "idempotency_mismatch"}, status=409)
            return web.json_response(row)
        row = {**call.body, "id": f"row-{next(self._ids)}"}
        self._keys[key] = (call.body, row)
        rows.append(row)
        return web.json_response(row, status=201)

    # --- The host ----------------------------------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        content = await request.read()
        call = Call(self, request, f"{request.method} {request.path}", json.loads(content) if content else None)
        replies = self._scripts.get(call.route) or [accepts]
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        with self._changed:
            self.calls.append(call)
            self._changed.notify_all()
        return await reply(call)

    async def _listen(self, port: int) -> web.AppRunner:
        application = web.Application(client_max_size=64 * 1024 * 1024)
        application.router.add_route("*", "/{tail:.*}", self._answer)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    def _run(self, port: int, started: Future[None]) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            runner = self._loop.run_until_complete(self._listen(port))
        except OSError as error:
            started.set_exception(error)
            return
        started.set_result(None)
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()


@dataclass
class Receiver:
    """A webhook receiver: answers with `statuses` in turn, the last one for ever, and keeps what it got."""

    url: str = ""
    statuses: Sequence[int] = (204,)
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    _host: Backend | None = None

    @classmethod
    def start(cls, *statuses: int) -> Receiver:
        receiver = cls(statuses=statuses or (204,))
        receiver._host = Backend.start()
        receiver._host.on("POST /hook", receiver._take)
        receiver.url = f"{receiver._host.url}/hook"
        return receiver

    def close(self) -> None:
        if self._host is not None:
            self._host.close()

    async def _take(self, call: Call) -> web.StreamResponse:
        status = self.statuses[min(len(self.received), len(self.statuses) - 1)]
        self.received.append((call.headers, await call.request.read()))
        return web.Response(status=status)
