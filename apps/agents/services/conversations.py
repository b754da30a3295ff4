"""Send and stream: the run that a message to an agent asks for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.conf import settings

from apps.agents.domain.delivery import WebhookTarget
from apps.agents.domain.requests import Options, SendBody, Webhook
from apps.agents.domain.run import (
    BackendOptions,
    Conversation,
    Idempotency,
    Kind,
    ModelOptions,
    RunRequest,
    RunScope,
    TraceRef,
)
from apps.agents.domain.stored_request import kickoff_of
from clasper.core.auth import Principal


def conversation_request(
    body: SendBody,
    metadata: Mapping[str, Any],
    *,
    kind: Kind,
    principal: Principal,
    tenant_id: str,
    trace: TraceRef,
    idempotency: Idempotency | None,
    now: datetime,
) -> RunRequest:
    """The run that a checked body asks for, in this tenant; `metadata` is the body's, as it came."""
    options = body.metadata or Options()
    scope = RunScope(
        principal=principal,
        tenant_id=tenant_id,
        workspace_id=body.workspace_id or options.workspace_id or "default",
        environment=body.environment or options.environment or "default",
        user_id=body.user_id,
        agent_role=body.role,
    )
    title = body.task_title or settings.CLASPER_DEFAULT_TASK
    return RunRequest(
        kind=kind,
        scope=scope,
        trace=trace,
        now=now,
        conversation=Conversation(
            message=body.message,
            history=tuple(body.messages or ()),
            system_prompt=options.system_prompt,
            kickoff=kickoff_of(options),
            timezone=options.timezone or "",
            force_include_skills=tuple(options.force_include_skills or ()),
        ),
        options=ModelOptions(model=options.model or ""),
        backend=BackendOptions(
            skip=bool(options.skip_backend),
            task_id=body.task_id or "",
            task_title=title,
            task_description=body.task_description or f"Agent thread: {title}",
            task_metadata=body.task_metadata or {"type": "agent_thread"},
        ),
        webhook=_webhook_target(body.webhook, scope) if body.webhook else None,
        idempotency=idempotency,
        metadata=metadata,
    )


def _webhook_target(webhook: Webhook, scope: RunScope) -> WebhookTarget:
    return WebhookTarget(webhook.url, webhook.secret or "", webhook.headers, scope.user_id, scope.agent_role)
