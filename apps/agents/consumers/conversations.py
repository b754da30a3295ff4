"""`POST /api/agents/send` and `POST /api/agents/stream`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings

from apps.agents.consumers.base import RunConsumer, idempotency_of, trace_of
from apps.agents.domain.requests import SendBody
from apps.agents.domain.responses import SendResponse
from apps.agents.domain.run import Kind, RunRequest
from apps.agents.services.conversations import conversation_request
from apps.agents.services.runs import collect
from apps.identity.domain.permissions import run_tenant
from clasper.core.auth import Principal
from clasper.core.clock import utc_now
from clasper.core.consumers import Request
from clasper.core.schemas import Errors
from clasper.core.validation import read
from clasper.gateways.ssrf import url_problem
from clasper.gateways.webhooks import header_problems


class SendConsumer(RunConsumer):
    """`POST /api/agents/send`: the answer as JSON, or as a stream when the body asks for one."""

    async def answer(self, principal: Principal, request: Request) -> None:
        raw = request.json()
        body = parse_body(raw)
        if body.stream:
            await self.stream(_run_request(principal, request, body, raw, kind="stream"))
            return
        finished = await collect(_run_request(principal, request, body, raw, kind="send"))
        await self.respond(finished, SendResponse.of(finished.result))


class StreamConsumer(RunConsumer):
    """`POST /api/agents/stream`: the same run, as server-sent events."""

    async def answer(self, principal: Principal, request: Request) -> None:
        raw = request.json()
        await self.stream(_run_request(principal, request, parse_body(raw), raw, kind="stream"))


def parse_body(raw: Mapping[str, Any]) -> SendBody:
    """The body, checked. Raises InvalidRequest with everything that is wrong with it."""
    return read(SendBody, raw, also={**_webhook_errors(raw.get("webhook")), **_task_errors(raw)})


def _run_request(
    principal: Principal, request: Request, body: SendBody, raw: Mapping[str, Any], *, kind: Kind
) -> RunRequest:
    return conversation_request(
        body,
        raw.get("metadata") or {},
        kind=kind,
        principal=principal,
        tenant_id=run_tenant(principal, body.tenant_id, default=body.user_id),
        trace=trace_of(request.headers),
        idempotency=idempotency_of(request.headers, raw),
        now=utc_now(),
    )


def _task_errors(raw: Mapping[str, Any]) -> Errors:
    options = raw.get("metadata")
    skips = isinstance(options, dict) and bool(options.get("skip_backend"))
    if skips or raw.get("task_id") or raw.get("task_title") or settings.CLASPER_DEFAULT_TASK:
        return {}
    return {"task_id": ["Give task_id or task_title, or set CLASPER_DEFAULT_TASK."]}


def _webhook_errors(webhook: Any) -> Errors:
    """What is wrong with where the webhook leads; its types are checked elsewhere."""
    if not isinstance(webhook, dict):
        return {}
    url, headers = webhook.get("url"), webhook.get("headers")
    problem = url_problem(url) if isinstance(url, str) and url else None
    errors = [f"url: {problem}"] if problem else []
    if isinstance(headers, dict) and all(isinstance(value, str) for value in headers.values()):
        errors += [f"headers: {each}" for each in header_problems(headers)]
    return {"webhook": errors} if errors else {}
