"""The door of replays: `GET` and `POST /traces/{id}/replay`."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from channels.db import database_sync_to_async

from apps.agents import engine
from apps.agents.consumers.base import RunConsumer, headers_of, named_by, refuse
from apps.agents.domain.replay import ReplayBody, replay_faults
from apps.agents.domain.run import RunFinished, RunRequest
from apps.agents.engine.replays import compare_with_original, describe_replay, replay_request
from apps.governance.domain.permissions import AGENTS_RUN, TRACES_READ, TRACES_WRITE, resolve_tenant
from clasper.core.auth import Principal
from clasper.core.clock import utc_now
from clasper.core.consumers import Request
from clasper.core.validation import convert


class ReplayConsumer(RunConsumer):
    """`GET /traces/{id}/replay`: what a run was asked. `POST`: the run again, with changes, and the difference."""

    methods = ("GET", "POST")
    route = "/traces/<str:trace_id>/replay"

    @property
    def scopes(self) -> tuple[str, ...]:
        return (TRACES_READ,) if self.scope["method"] == "GET" else (AGENTS_RUN, TRACES_WRITE)

    async def answer(self, principal: Principal, request: Request) -> None:
        trace_id = self.scope["url_route"]["kwargs"]["trace_id"]
        tenant_id = resolve_tenant(principal, None)
        if self.scope["method"] == "GET":
            found = await database_sync_to_async(describe_replay)(tenant_id=tenant_id, trace_id=trace_id)
            await self.send_json(200, found)
            return
        raw = request.json() if request.body.strip() else {}
        body, faults = convert(raw, ReplayBody)
        refuse(faults, replay_faults(raw))
        assert body is not None
        # The same changes to another run are another request.
        named = named_by(request.headers, {**raw, "replay_of": trace_id.lower()}, now=utc_now())
        run = await database_sync_to_async(replay_request)(
            principal=principal, tenant_id=tenant_id, trace_id=trace_id, body=body, named=named
        )
        await self._run(run)

    async def _run(self, run: RunRequest) -> None:
        answer: dict[str, Any] = {}
        headers: dict[str, str] = {}
        async with aclosing(engine.run(run)) as events:
            async for event in events:
                if isinstance(event, RunFinished):
                    answer = dict(event.body)
                    headers = headers_of(event)
        compared = await database_sync_to_async(compare_with_original)(
            tenant_id=run.tenant_id, original_id=run.replay_of, replay_id=answer["trace_id"]
        )
        await self.send_json(200, {**answer, "replay_of": run.replay_of, **compared}, headers)
