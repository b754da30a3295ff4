"""What every door of a run shares: identity, the common parts of a request, and the two ways to answer."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import aclosing
from datetime import datetime
from time import monotonic
from typing import Any

import msgspec

from apps.agents import engine, tasks
from apps.agents.domain.requests import Booked, Faults
from apps.agents.domain.run import RunFinished, RunRequest, RunStarted, TextChunk, ToolFinished, ToolStarted
from apps.identity.consumers import GuardedConsumer
from apps.identity.domain.permissions import AGENTS_RUN, run_tenant
from clasper.core.auth import Principal
from clasper.core.errors import ClasperError, InvalidRequest
from clasper.core.ids import is_uuid, new_id
from clasper.core.sse import HEADERS, HEARTBEAT, HEARTBEAT_SECONDS, encode_chunk, encode_event

MAX_KEY_CHARS = 255


class RunConsumer(GuardedConsumer):
    """What all entry points of runs share: the two ways to answer."""

    scopes = (AGENTS_RUN,)

    async def collect(self, run: RunRequest) -> None:
        """Runs to the end and answers with JSON."""
        async with aclosing(engine.run(run)) as events:
            async for event in events:
                if isinstance(event, RunFinished):
                    await self.send_json(200, event.body, headers_of(event))
                    if event.webhook_pending:
                        await tasks.wake_workers()

    async def stream(self, run: RunRequest) -> None:
        """Forwards the run's events as they happen; a refusal before the first one is still a JSON error."""
        async with aclosing(engine.run(run)) as events:
            first = await anext(events)
            assert isinstance(first, RunStarted | RunFinished)
            await self.start(200, [*HEADERS, (b"x-trace-id", first.trace_id.encode())])
            await self._send(encode_event("start", {}))
            heartbeat = asyncio.ensure_future(self._heartbeat())
            try:
                await self._forward(first)
                async for event in events:
                    await self._forward(event)
            finally:
                heartbeat.cancel()
        await self._send(b"", more=False)

    async def _forward(self, event: engine.RunEvent) -> None:
        if isinstance(event, TextChunk):
            await self._send(encode_chunk(event.text))
        elif isinstance(event, ToolStarted):
            await self._send(encode_event("tool_call", {"name": event.name}))
        elif isinstance(event, ToolFinished):
            outcome = {"name": event.name, "status": event.status, "duration_ms": event.duration_ms}
            await self._send(encode_event("tool_result", outcome))
        elif isinstance(event, RunFinished):
            if event.replayed:
                await self._send(encode_chunk(event.body["response"]))
            done = {name: value for name, value in event.body.items() if name != "status"}
            await self._send(encode_event("done", done))
            if event.webhook_pending:
                await tasks.wake_workers()

    async def on_stream_error(self, error: ClasperError) -> None:
        data: dict[str, Any] = {"error": error.message, "code": error.error_code, "details": error.details}
        if error.trace_id:
            data["trace_id"] = error.trace_id
        await self._send(encode_event("error", data))
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
    headers = {"X-Trace-Id": finished.trace_id}
    if finished.replayed:
        headers["Idempotency-Replayed"] = "true"
    return headers


def named_by(headers: Mapping[str, str], raw: Mapping[str, Any], *, now: datetime) -> dict[str, Any]:
    """The parts of a RunRequest that its headers say: the trace's id or label, and what makes it repeatable.

    Raises InvalidRequest for an Idempotency-Key that is none.
    """
    given = headers.get("x-trace-id", "")
    return {
        "trace_id": given.lower() if is_uuid(given) else new_id(),
        "trace_id_given": is_uuid(given),
        "labels": {"correlation_id": given} if given and not is_uuid(given) else {},
        "idempotency_key": _idempotency_key(headers),
        "fingerprint": _fingerprint(raw) if "idempotency-key" in headers else "",
        "now": now,
    }


def booked_for(principal: Principal, body: Booked, *, role: str) -> dict[str, Any]:
    """The parts of a RunRequest that say whom a run without a session is for; `role` when the body names none.

    Raises PermissionDenied for another tenant's name.
    """
    return {
        "principal": principal,
        "tenant_id": run_tenant(principal, body.tenant_id, default=body.user_id or "default"),
        "workspace_id": body.workspace_id or "default",
        "environment": body.environment or "default",
        "user_id": body.user_id or "",
        "agent_role": body.agent_role or role,
        "options": body.metadata or {},
    }


def refuse(faults: Faults, more: Mapping[str, list[str]]) -> None:
    """Raises InvalidRequest with all faults of a body, if there are any; those of the rules come after the types'."""
    for field, texts in more.items():
        known = faults.setdefault(field, [])
        known += [text for text in texts if text not in known]
    if faults:
        form = faults.pop("", [])
        raise InvalidRequest(field_errors=faults, form_errors=form)


def _fingerprint(raw: Mapping[str, Any]) -> str:
    """The same for equal bodies, however their keys are ordered. Not RFC 8785, which has no integers beyond 2⁵³."""
    return hashlib.sha256(msgspec.json.encode(raw, order="sorted")).hexdigest()


def _idempotency_key(headers: Mapping[str, str]) -> str:
    key = headers.get("idempotency-key", "")
    if len(key) > MAX_KEY_CHARS or not key.isprintable():
        raise InvalidRequest(field_errors={"Idempotency-Key": [f"At most {MAX_KEY_CHARS} printable characters."]})
    return key
