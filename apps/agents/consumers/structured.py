"""`POST /llm-task`."""

from __future__ import annotations

from apps.agents.consumers.base import RunConsumer, idempotency_of, scope_of, trace_of
from apps.agents.domain.llm_task import TaskBody, read_schema
from apps.agents.domain.responses import TaskResponse
from apps.agents.services.runs import collect
from apps.agents.services.structured import task_request
from clasper.core.auth import Principal
from clasper.core.clock import utc_now
from clasper.core.consumers import Request
from clasper.core.validation import read


class TaskConsumer(RunConsumer):
    """`POST /llm-task`: one question, one JSON value."""

    async def answer(self, principal: Principal, request: Request) -> None:
        raw = request.json()
        schema, schema_errors = read_schema(raw.get("schema"))
        body = read(TaskBody, raw, also=schema_errors)
        finished = await collect(
            task_request(
                body,
                schema,
                scope=scope_of(principal, body, role="llm-task"),
                trace=trace_of(request.headers),
                idempotency=idempotency_of(request.headers, raw),
                now=utc_now(),
            )
        )
        await self.respond(finished, TaskResponse.of(finished.result))
