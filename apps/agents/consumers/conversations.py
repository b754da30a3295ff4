"""The doors of conversations: `POST /api/agents/send` and `POST /api/agents/stream`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings

from apps.agents.consumers.base import RunConsumer, named_by, refuse
from apps.agents.domain.requests import Faults, Options, SendBody, body_faults, session_of
from apps.agents.domain.run import Kind, RunRequest
from apps.identity.domain.permissions import run_tenant
from clasper.core.auth import Principal
from clasper.core.clock import utc_now
from clasper.core.consumers import Request
from clasper.core.validation import convert
from clasper.gateways.ssrf import url_problem
from clasper.gateways.webhooks import header_problems


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
    refuse(faults, {**body_faults(raw), **_webhook_faults(raw.get("webhook")), **_task_faults(raw)})
    assert body is not None
    return body, raw


def run_request(
    principal: Principal, headers: Mapping[str, str], body: SendBody, raw: dict[str, Any], *, kind: Kind
) -> RunRequest:
    """The run a checked body asks for. Raises PermissionDenied for another tenant's name."""
    options = body.metadata or Options()
    session = session_of(body)
    title = body.task_title or settings.CLASPER_DEFAULT_TASK
    return RunRequest(
        kind=kind,
        principal=principal,
        tenant_id=run_tenant(principal, body.tenant_id, default=body.user_id),
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
        options=raw.get("metadata") or {},
        **named_by(headers, raw, now=utc_now()),
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
    fault = url_problem(url) if isinstance(url, str) and url else None
    faults = [f"url: {fault}"] if fault else []
    if isinstance(headers, dict) and all(isinstance(value, str) for value in headers.values()):
        faults += [f"headers: {each}" for each in header_problems(headers)]
    return {"webhook": faults} if faults else {}
