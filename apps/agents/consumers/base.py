"""What the entry points of runs share: the common parts of a request, and the two ways to answer."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import aclosing
from time import monotonic
from typing import Any

import msgspec

from apps.agents import tasks
from apps.agents.domain.requests import ScopedBody
from apps.agents.domain.responses import AgentAnswer
from apps.agents.domain.run import (
    Idempotency,
    RunEvent,
    RunFinished,
    RunRequest,
    RunScope,
    RunStarted,
    TextChunk,
    ToolFinished,
    ToolStarted,
    TraceRef,
)
from apps.agents.services.runs import start
from apps.identity.consumers import GuardedConsumer
from apps.identity.domain.permissions import AGENTS_RUN, run_tenant
from clasper.core.auth import Principal
from clasper.core.errors import ClasperError, InvalidRequest
from clasper.core.http import error_body
from clasper.core.ids import is_uuid, new_id
from clasper.core.sse import HEADERS, HEARTBEAT, HEARTBEAT_SECONDS, encode_chunk, encode_event

MAX_KEY_CHARS = 255


class RunConsumer(GuardedConsumer):
    """What all entry points of runs share: the two ways to answer."""

    scopes = (AGENTS_RUN,)

    async def respond(self, finished: RunFinished, body: msgspec.Struct) -> None:
        """Answers with JSON."""
        await self.send_json(200, body, headers_of(finished))
        if finished.webhook_pending:
            await tasks.wake_workers()

    async def stream(self, request: RunRequest) -> None:
        """Forwards the run's events as they happen; a refusal before the first one is still a JSON error."""
        async with aclosing(await start(request)) as events:
            first = await anext(events)
            trace_id = first.trace_id if isinstance(first, RunStarted) else request.trace.trace_id
            if isinstance(first, RunFinished):
                trace_id = first.result.trace_id
            await self.start(200, [*HEADERS, (b"x-trace-id", trace_id.encode())])
            await self._send(encode_event("start", {}))
            heartbeat = asyncio.ensure_future(self._heartbeat())
            try:
                await self._forward(first)
                async for event in events:
                    await self._forward(event)
            finally:
                heartbeat.cancel()
        await self._send(b"", more=False)

    async def _forward(self, event: RunEvent) -> None:
        if isinstance(event, TextChunk):
            await self._send(encode_chunk(event.text))
        elif isinstance(event, ToolStarted):
            await self._send(encode_event("tool_call", {"name": event.name}))
        elif isinstance(event, ToolFinished):
            outcome = {"name": event.name, "status": event.status, "duration_ms": event.duration_ms}
            await self._send(encode_event("tool_result", outcome))
        elif isinstance(event, RunFinished):
            if event.repeated:
                await self._send(encode_chunk(event.result.text))
            await self._send(encode_event("done", msgspec.to_builtins(AgentAnswer.of(event.result))))
            if event.webhook_pending:
                await tasks.wake_workers()

    async def on_stream_error(self, error: ClasperError) -> None:
        await self._send(encode_event("error", msgspec.to_builtins(error_body(error))))
        await self._send(b"", more=False)

    async def _send(self, data: bytes, *, more: bool = True) -> None:
        self._sent_at = monotonic()
        await self.send_part(data, more=more)

    async def _heartbeat(self) -> None:
        """A comment whenever nothing was sent for a while, so that proxies and clients know the run is alive."""
        while True:
            idle = monotonic() - self._sent_at
            if idle >= HEARTBEAT_SECONDS:
                await self._send(HEARTBEAT)
            else:
                await asyncio.sleep(HEARTBEAT_SECONDS - idle)


def headers_of(finished: RunFinished) -> dict[str, str]:
    """The response headers of a run that ended well."""
    headers = {"X-Trace-Id": finished.result.trace_id}
    if finished.repeated:
        headers["Idempotency-Replayed"] = "true"
    return headers


def trace_of(headers: Mapping[str, str]) -> TraceRef:
    """The trace that the run writes: the caller's X-Trace-Id where it is a UUID, else a new one labelled with it."""
    given = headers.get("x-trace-id", "")
    if is_uuid(given):
        return TraceRef(given.lower(), chosen=True)
    return TraceRef(new_id(), labels={"correlation_id": given} if given else {})


def idempotency_of(headers: Mapping[str, str], raw: Mapping[str, Any]) -> Idempotency | None:
    """The caller's Idempotency-Key with a digest of the body, which does not depend on the order of its keys.

    Raises InvalidRequest for a key that is too long or not printable.
    """
    key = headers.get("idempotency-key", "")
    if not key:
        return None
    if len(key) > MAX_KEY_CHARS or not key.isprintable():
        raise InvalidRequest(field_errors={"Idempotency-Key": [f"At most {MAX_KEY_CHARS} printable characters."]})
    # Not RFC 8785, which has no integers beyond 2⁵³.
    return Idempotency(key, hashlib.sha256(msgspec.json.encode(raw, order="sorted")).hexdigest())


def scope_of(principal: Principal, body: ScopedBody, *, role: str) -> RunScope:
    """Whose run it is when there is no session; `role` when the body names none.

    Raises PermissionDenied for another tenant's name.
    """
    return RunScope(
        principal=principal,
        tenant_id=run_tenant(principal, body.tenant_id, default=body.user_id or "default"),
        workspace_id=body.workspace_id or "default",
        environment=body.environment or "default",
        user_id=body.user_id or "",
        agent_role=body.agent_role or role,
    )
