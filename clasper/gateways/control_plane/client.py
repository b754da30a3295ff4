"""The control plane as Clasper sees it: tasks, messages, documents and tools of contract v1."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Container, Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from clasper.gateways import http
from clasper.gateways.control_plane.cache import SharedCache
from clasper.gateways.control_plane.capabilities import UNKNOWN, Capabilities, parse_capabilities
from clasper.gateways.control_plane.responses import decode, entity_id, json_or_none, require_success
from clasper.gateways.control_plane.tokens import TokenMinter
from clasper.gateways.control_plane.tools import TOOL_RESULT_BYTES, Tool, ToolOutcome, parse_tools, tool_outcome
from clasper.gateways.control_plane.transport import (
    FIRST_PAUSE,
    Caller,
    NoResponse,
    Request,
    Response,
    Transport,
    backend_failed,
)

DEADLINE_SECONDS = 30.0
"""For callers that have no deadline of their own."""
FRESH_SECONDS = 60.0
FAILED_SECONDS = 5.0
"""How long a backend that did not answer is not asked for its capabilities again."""
DISCOVERY_SECONDS = 10.0
MAX_PAGES = 20

_CAPABILITIES_PATHS = ("/api/mission-control/capabilities", "/api/capabilities")
_TASKS_PATH = "/api/mission-control/tasks"
_MESSAGES_PATH = "/api/mission-control/messages"
_DOCUMENTS_PATH = "/api/mission-control/documents"
_TOOLS_PATH = "/api/tools"
_ABSENT = frozenset({404, 405, 501})


class _Row(msgspec.Struct):
    id: Any = None
    title: Any = None


class _Page(msgspec.Struct):
    items: list[_Row]
    next_cursor: Any = None


_page = msgspec.json.Decoder(_Page)
_encode = msgspec.json.Encoder().encode


class ControlPlane:
    """A client of one control plane, safe to share between coroutines, threads' event loops and tenants.

    Every method takes a `deadline` on the event loop's clock in seconds (`loop.time()`; default: in 30 s), makes up to
    three attempts before it, and raises BackendFailed with `details` `{"operation", "status"}`. Writes carry the
    caller's idempotency key, so that a repeated one has no second effect.
    """

    def __init__(
        self,
        base_url: str,
        tokens: TokenMinter | None,
        *,
        session: Callable[[], aiohttp.ClientSession] = http.session,
        first_pause: float = FIRST_PAUSE,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._transport = Transport(self.base_url, tokens=tokens, session=session, first_pause=first_pause)
        self._capabilities: SharedCache[Capabilities] = SharedCache()
        self._tools: SharedCache[tuple[Tool, ...]] = SharedCache()

    # --- What it can do ------------------------------------------------------------------------------------------

    async def capabilities(self, caller: Caller, *, deadline: float | None = None) -> Capabilities:
        """What the backend offers this tenant, kept for a minute; nothing optional when it cannot be asked."""
        try:
            return await self._capabilities.get(
                caller.tenant_id, lambda: self._fetch_capabilities(caller), deadline=_or_default(deadline)
            )
        except TimeoutError:
            return UNKNOWN

    async def _fetch_capabilities(self, caller: Caller) -> tuple[Capabilities, float]:
        deadline = _from_now(DISCOVERY_SECONDS)
        for path in _CAPABILITIES_PATHS:
            try:
                response = await self._transport.send(
                    Request(operation="list capabilities", method="GET", path=path, caller=caller), deadline
                )
            except NoResponse:
                break
            found = parse_capabilities(json_or_none(response)) if response.ok else None
            if found is not None:
                return found, FRESH_SECONDS
        return UNKNOWN, FAILED_SECONDS

    async def ping(self, *, timeout: float = 5.0) -> None:
        """Asks `GET /health` once, without a token. Raises BackendFailed unless the response is 2xx."""
        await self._send(
            Request(operation="answer its health check", method="GET", path="/health", caller=None, attempts=1),
            _from_now(timeout),
        )

    # --- Tasks, messages, documents ------------------------------------------------------------------------------

    async def find_or_create_task(
        self,
        caller: Caller,
        *,
        title: str,
        description: str,
        metadata: Mapping[str, Any],
        deadline: float | None = None,
    ) -> str:
        """The id of the user's task with exactly this title, which is created if there is none.

        Concurrent calls return the same task: they create it under one key, and whoever is late looks again.
        """
        ends = _or_default(deadline)
        found = await self._find_task(caller, title, ends)
        if found is not None:
            return found
        scope = [caller.tenant_id, caller.user_id, title]
        body = {"title": title, "description": description, "status": "in_progress", "metadata": metadata}
        # A key that was used for another body belongs to the task of a racing run, which is found now, or to one that
        # has been renamed since: then the key that also covers the body creates a new task, once for all callers.
        for key in (_key(scope), _key([*scope, description, metadata])):
            response = await self._post(
                "create the task", _TASKS_PATH, caller, {**body, "idempotency_key": key}, ends, expected=(409,)
            )
            if response.status != 409:
                return entity_id("create the task", response)
            found = await self._find_task(caller, title, ends)
            if found is not None:
                return found
        raise backend_failed("create the task", 409)

    async def _find_task(self, caller: Caller, title: str, deadline: float) -> str | None:
        cursors: set[str] = set()
        path = f"{_TASKS_PATH}?limit=50"
        for _ in range(MAX_PAGES):
            request = Request(operation="list tasks", method="GET", path=path, caller=caller)
            page = decode("list tasks", await self._send(request, deadline), _page)
            for row in page.items:
                if row.title == title and row.id is not None:
                    return str(row.id)
            cursor = "" if page.next_cursor is None else str(page.next_cursor)
            if not cursor or cursor in cursors:
                break
            cursors.add(cursor)
            path = f"{_TASKS_PATH}?limit=50&cursor={quote(cursor, safe='')}"
        return None

    async def post_message(
        self,
        caller: Caller,
        *,
        task_id: str,
        content: str,
        idempotency_key: str,
        attachments: Mapping[str, Any] | None = None,
        deadline: float | None = None,
    ) -> str:
        """Posts the agent's message to a task and returns its id."""
        body: dict[str, Any] = {
            "task_id": task_id,
            "content": content,
            "actor_type": "agent",
            "agent_role": caller.agent_role,
            "idempotency_key": idempotency_key,
        }
        if attachments is not None:
            body["attachments"] = attachments
        operation = "post the message"
        return entity_id(operation, await self._post(operation, _MESSAGES_PATH, caller, body, _or_default(deadline)))

    async def post_document(
        self,
        caller: Caller,
        *,
        task_id: str,
        title: str,
        content: str,
        doc_type: str,
        idempotency_key: str,
        deadline: float | None = None,
    ) -> str:
        """Adds a document to a task and returns its id."""
        body = {
            "title": title,
            "content": content,
            "doc_type": doc_type,
            "task_id": task_id,
            "idempotency_key": idempotency_key,
        }
        operation = "post the document"
        return entity_id(operation, await self._post(operation, _DOCUMENTS_PATH, caller, body, _or_default(deadline)))

    # --- Tools ---------------------------------------------------------------------------------------------------

    async def list_tools(self, caller: Caller, *, deadline: float | None = None) -> tuple[Tool, ...]:
        """The tenant's tools, kept for a minute; none when the capabilities do not announce any.

        Entries that are not tools are left out.
        """
        ends = _or_default(deadline)
        try:
            return await self._tools.get(caller.tenant_id, lambda: self._fetch_tools(caller), deadline=ends)
        except TimeoutError as error:
            raise backend_failed("list tools") from error

    async def _fetch_tools(self, caller: Caller) -> tuple[tuple[Tool, ...], float]:
        deadline = _from_now(DISCOVERY_SECONDS)
        capabilities = await self.capabilities(caller, deadline=deadline)
        if not capabilities.tools:
            return (), FRESH_SECONDS if capabilities.known else FAILED_SECONDS
        request = Request(operation="list tools", method="GET", path=_TOOLS_PATH, caller=caller, scoped=True)
        response = await self._send(request, deadline, expected=_ABSENT)
        return () if response.status in _ABSENT else parse_tools(response), FRESH_SECONDS

    async def call_tool(
        self,
        caller: Caller,
        name: str,
        arguments: Mapping[str, Any],
        *,
        idempotency_key: str,
        timeout: float,
        max_bytes: int = TOOL_RESULT_BYTES,
        deadline: float | None = None,
    ) -> ToolOutcome:
        """Runs a tool and returns how it ended; never raises for a tool that fails.

        It takes at most `timeout` seconds and accepts a result of `max_bytes`. A call that may have taken effect is
        repeated only when the backend announces `tool_idempotency`.
        """
        body = {
            "arguments": arguments,
            "tenant_id": caller.tenant_id,
            "workspace_id": caller.workspace_id,
            "trace_id": caller.trace_id,
            "idempotency_key": idempotency_key,
        }
        capabilities = self._capabilities.peek(caller.tenant_id) or UNKNOWN
        request = Request(
            operation="run a tool",
            method="POST",
            path=f"{_TOOLS_PATH}/{quote(name, safe='')}",
            caller=caller,
            body=_encode(body),
            scoped=True,
            replayable=capabilities.has("tool_idempotency"),
            max_bytes=max_bytes,
        )
        ends = _from_now(timeout)
        try:
            response = await self._transport.send(request, ends if deadline is None else min(ends, deadline))
        except NoResponse as error:
            return ToolOutcome(ok=False, error=f"The tool {error.reason}.")
        return tool_outcome(response, max_bytes)

    # --- One request ---------------------------------------------------------------------------------------------

    async def _post(
        self,
        operation: str,
        path: str,
        caller: Caller,
        body: Mapping[str, Any],
        deadline: float,
        *,
        expected: Container[int] = (),
    ) -> Response:
        request = Request(operation=operation, method="POST", path=path, caller=caller, body=_encode(body))
        return await self._send(request, deadline, expected=expected)

    async def _send(self, request: Request, deadline: float, *, expected: Container[int] = ()) -> Response:
        try:
            response = await self._transport.send(request, deadline)
        except NoResponse as error:
            raise backend_failed(request.operation, reason=f"the backend {error.reason}") from error
        return response if response.status in expected else require_success(request.operation, response)


def _key(parts: list[Any]) -> str:
    return "clasper:task:" + hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


def _from_now(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


def _or_default(deadline: float | None) -> float:
    return _from_now(DEADLINE_SECONDS) if deadline is None else deadline
