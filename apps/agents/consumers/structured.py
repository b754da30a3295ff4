"""The door of structured tasks: `POST /llm-task`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apps.agents.consumers.base import RunConsumer, booked_for, named_by, refuse
from apps.agents.domain.answers import task_answer
from apps.agents.domain.json_output import JsonOutput
from apps.agents.domain.llm_task import TaskBody, read_schema, task_faults, task_instructions, task_message
from apps.agents.domain.run import RunRequest
from apps.agents.domain.schema import OutputSchema
from clasper.core.auth import Principal
from clasper.core.clock import utc_now
from clasper.core.consumers import Request
from clasper.core.validation import convert


class TaskConsumer(RunConsumer):
    """`POST /llm-task`: one question, one JSON value."""

    async def answer(self, principal: Principal, request: Request) -> None:
        raw = request.json()
        body, faults = convert(raw, TaskBody)
        schema, schema_faults = read_schema(raw.get("schema"))
        refuse(faults, {**task_faults(raw), **schema_faults})
        assert body is not None
        await self.collect(task_request(principal, request.headers, body, raw, schema))


def task_request(
    principal: Principal,
    headers: Mapping[str, str],
    body: TaskBody,
    raw: dict[str, Any],
    schema: OutputSchema | None,
) -> RunRequest:
    """The run a checked body asks for. Raises PermissionDenied for another tenant's name."""
    return RunRequest(
        kind="llm_task",
        message=task_message(body.prompt, body.input),
        instructions=task_instructions(body.schema),
        model=body.model or "",
        temperature=body.temperature,
        max_output_tokens=body.max_tokens,
        expects=JsonOutput(schema),
        skip_backend=True,
        answer=task_answer,
        **booked_for(principal, body, role="llm-task"),
        **named_by(headers, raw, now=utc_now()),
    )
