"""The doors of runs: `POST /api/agents/send` and `POST /api/agents/stream`, on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from django.conf import settings

from apps.agents import engine, tasks
from apps.agents.domain.requests import Faults, Options, SendBody, body_faults, session_of
from apps.agents.domain.run import Kind, RunFinished, RunRequest, RunStarted, TextChunk, ToolFinished, ToolStarted
from apps.governance.domain.permissions import AGENTS_RUN, resolve_tenant
from apps.governance.services.access import authenticate_async, check_rate_async, record_denial, require
from clasper.core.auth import Principal
from clasper.core.canonical import digest
from clasper.core.clock import utc_now
from clasper.core.consumers import ApiConsumer, Request
from clasper.core.db import writer
from clasper.core.errors import ClasperError, InvalidRequest, PermissionDenied
from clasper.core.ids import is_uuid, new_id
from clasper.core.sse import HEADERS, HEARTBEAT, HEARTBEAT_SECONDS, encode_event
from clasper.core.validation import convert
from clasper.gateways.guard import url_fault
from clasper.gateways.webhooks import header_faults

MAX_KEY_CHARS = 255


class RunConsumer(ApiConsumer):
    """What both doors share: identity, the body, and the two ways to answer."""

    async def handle_request(self, request: Request) -> None:
        now = utc_now()
        principal = await authenticate_async(request.headers, now=now)
        try:
            require(principal, AGENTS_RUN)
            await check_rate_async(principal)
            await self.answer(principal, request)
        except PermissionDenied as error:
            await self._audit_denial(principal, error)
            raise

    async def answer(self, principal: Principal, request: Request) -> None:
        raise NotImplementedError

    async def collect(self, run: RunRequest) -> None:
        """Runs to the end and answers with JSON."""
        async with aclosing(engine.run(run)) as events:
            async for event in events:
                if isinstance(event, RunFinished):
                    headers = {"X-Trace-Id": event.trace_id}
                    if event.replayed:
                        headers["Idempotency-Replayed"] = "true"
                    await self.send_json(200, event.body, headers)
                    if event.webhook_pending:
                        await tasks.nudge()

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
            await self._send(encode_event("chunk", {"data": event.text}))
        elif isinstance(event, ToolStarted):
            await self._send(encode_event("tool_call", {"name": event.name}))
        elif isinstance(event, ToolFinished):
            outcome = {"name": event.name, "status": event.status, "duration_ms": event.duration_ms}
            await self._send(encode_event("tool_result", outcome))
        elif isinstance(event, RunFinished):
            if event.replayed:
                await self._send(encode_event("chunk", {"data": event.body["response"]}))
            done = {name: value for name, value in event.body.items() if name != "status"}
            await self._send(encode_event("done", done))
            if event.webhook_pending:
                await tasks.nudge()

    async def on_stream_error(self, error: ClasperError) -> None:
        data: dict[str, Any] = {"error": error.message, "code": error.error_code, "details": error.details}
        if error.trace_id:
            data["trace_id"] = error.trace_id
        await self._send(encode_event("error", data))
        await self._send(b"", more=False)

    async def _send(self, data: bytes, *, more: bool = True) -> None:
        self._sent_at = asyncio.get_running_loop().time()
        await self.send_part(data, more=more)

    async def _heartbeat(self) -> None:
        """A comment whenever nothing was sent for a while, so that proxies and clients know the run is alive."""
        while True:
            idle = asyncio.get_running_loop().time() - self._sent_at
            if idle >= HEARTBEAT_SECONDS:
                await self._send(HEARTBEAT)
            else:
                await asyncio.sleep(HEARTBEAT_SECONDS - idle)

    async def _audit_denial(self, principal: Principal, error: PermissionDenied) -> None:
        permission = str(error.details.get("permission", ""))
        route = f"POST {self.scope['path']}"
        await writer.submit(
            lambda batch: record_denial(batch, principal=principal, permission=permission, route=route, now=utc_now()),
            key=principal.tenant_id or "",
        )


class SendConsumer(RunConsumer):
    """`POST /api/agents/send`: the answer as JSON, or as a stream when the body asks for one."""

    async def answer(self, principal: Principal, request: Request) -> None:
        body, raw = parse_body(request.json())
        if body.stream:
            await self.stream(run_request(principal, request.headers, body, raw, kind="stream"))
        else:
            await self.collect(run_request(principal, request.headers, body, raw, kind="send"))


class StreamConsumer(RunConsumer):
    """`POST /api/agents/stream`: the same run, as server-sent events."""

    async def answer(self, principal: Principal, request: Request) -> None:
        body, raw = parse_body(request.json())
        await self.stream(run_request(principal, request.headers, body, raw, kind="stream"))


def parse_body(raw: Any) -> tuple[SendBody, dict[str, Any]]:
    """The body, checked. Raises InvalidRequest with everything that is wrong with it."""
    body, faults = convert(raw, SendBody)
    for field, texts in {**body_faults(raw), **_webhook_faults(raw.get("webhook")), **_task_faults(raw)}.items():
        known = faults.setdefault(field, [])
        known += [text for text in texts if text not in known]
    if faults or body is None:
        form = faults.pop("", [])
        raise InvalidRequest(field_errors=faults, form_errors=form)
    return body, raw


def run_request(
    principal: Principal, headers: Mapping[str, str], body: SendBody, raw: dict[str, Any], *, kind: Kind
) -> RunRequest:
    """The run a checked body asks for. Raises PermissionDenied for another tenant's name."""
    options = body.metadata or Options()
    session = session_of(body)
    given = headers.get("x-trace-id", "")
    title = body.task_title or settings.CLASPER_DEFAULT_TASK
    return RunRequest(
        trace_id=given.lower() if is_uuid(given) else new_id(),
        trace_id_given=is_uuid(given),
        kind=kind,
        principal=principal,
        tenant_id=resolve_tenant(principal, body.tenant_id) or body.user_id,
        workspace_id=body.workspace_id or options.workspace_id or "default",
        environment=body.environment or options.environment or "default",
        user_id=body.user_id,
        agent_role=session.role,
        message=body.message,
        history=tuple(body.messages or ()),
        task_id=body.task_id or "",
        task_title=title,
        task_description=body.task_description or f"Agent thread: {title}",
        task_metadata=body.task_metadata or {"type": "agent_thread"},
        system_prompt=options.system_prompt,
        kickoff_plan=bool(options.kickoff_plan),
        kickoff_note=options.kickoff_note or "",
        plan_title=options.plan_title or "Plan",
        timezone=options.timezone or "",
        model=options.model or "",
        skip_backend=bool(options.skip_backend),
        force_include_skills=tuple(options.force_include_skills or ()),
        webhook=body.webhook,
        idempotency_key=_idempotency_key(headers),
        fingerprint=digest(raw) if "idempotency-key" in headers else "",
        labels={"correlation_id": given} if given and not is_uuid(given) else {},
        options=raw.get("metadata") or {},
        now=utc_now(),
    )


def _task_faults(raw: Mapping[str, Any]) -> Faults:
    options = raw.get("metadata")
    skips = isinstance(options, dict) and bool(options.get("skip_backend"))
    if skips or raw.get("task_id") or raw.get("task_title") or settings.CLASPER_DEFAULT_TASK:
        return {}
    return {"task_id": ["Give task_id or task_title, or set CLASPER_DEFAULT_TASK."]}


def _webhook_faults(webhook: Any) -> Faults:
    """What is wrong with where the webhook leads; its types are checked elsewhere."""
    if not isinstance(webhook, dict):
        return {}
    url, headers = webhook.get("url"), webhook.get("headers")
    fault = url_fault(url) if isinstance(url, str) and url else None
    faults = [f"url: {fault}"] if fault else []
    if isinstance(headers, dict) and all(isinstance(value, str) for value in headers.values()):
        faults += [f"headers: {each}" for each in header_faults(headers)]
    return {"webhook": faults} if faults else {}


def _idempotency_key(headers: Mapping[str, str]) -> str:
    key = headers.get("idempotency-key", "")
    if len(key) > MAX_KEY_CHARS or not key.isprintable():
        raise InvalidRequest(field_errors={"Idempotency-Key": [f"At most {MAX_KEY_CHARS} printable characters."]})
    return key
