"""Structured tasks: one question, one JSON value."""

from __future__ import annotations

from datetime import datetime

from apps.agents.domain.json_output import OutputSpec
from apps.agents.domain.llm_task import TaskBody, task_instructions, task_message
from apps.agents.domain.run import Conversation, Idempotency, ModelOptions, RunRequest, RunScope, TraceRef
from apps.agents.domain.schema import OutputSchema


def task_request(
    body: TaskBody,
    schema: OutputSchema | None,
    *,
    scope: RunScope,
    trace: TraceRef,
    idempotency: Idempotency | None,
    now: datetime,
) -> RunRequest:
    """The run that a checked body asks for; `schema` is the body's, compiled."""
    return RunRequest(
        kind="llm_task",
        scope=scope,
        trace=trace,
        now=now,
        conversation=Conversation(
            message=task_message(body.prompt, body.input), instructions=task_instructions(body.schema)
        ),
        options=ModelOptions(
            model=body.model or "",
            temperature=body.temperature,
            max_output_tokens=body.max_tokens,
            output=OutputSpec(schema),
        ),
        idempotency=idempotency,
        metadata=body.metadata or {},
    )
