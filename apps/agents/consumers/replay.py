"""The door of replays: `GET` and `POST /traces/{id}/replay`."""

from __future__ import annotations

from contextlib import aclosing

from channels.db import database_sync_to_async

from apps.agents import engine
from apps.agents.consumers.base import RunConsumer, headers_of, named_by, refuse
from apps.agents.domain.replay import ReplayBody, replay_faults
from apps.agents.domain.run import RunFinished, RunRequest
from apps.agents.services.replay import compare_with_original, describe_replay, repeated_replay, replay_request
from apps.identity.domain.permissions import (
    AGENTS_RUN,
    TRACES_READ,
    TRACES_WRITE,
    resolve_tenant,
)
from apps.identity.services.authentication import require
from clasper.core.auth import Principal
from clasper.core.clock import utc_now
from clasper.core.consumers import Request
from clasper.core.errors import ClasperError, Conflict, NotFound
from clasper.core.validation import convert


class ReplayConsumer(RunConsumer):
    """`GET /traces/{id}/replay`: what a run was asked. `POST`: the run again, with changes, and the difference."""

    methods = ("GET", "POST")
    route = "/traces/<str:trace_id>/replay"

    def require_scopes(self, principal: Principal) -> None:
        for scope in (TRACES_READ,) if self.scope["method"] == "GET" else (AGENTS_RUN, TRACES_WRITE):
            require(principal, scope)

    async def answer(self, principal: Principal, request: Request) -> None:
        trace_id = self.scope["url_route"]["kwargs"]["trace_id"]
        tenants = resolve_tenant(principal, None)
        if self.scope["method"] == "GET":
            found = await database_sync_to_async(describe_replay)(
                tenants=tenants, trace_id=trace_id, actor=principal.actor, now=utc_now()
            )
            await self.send_json(200, found)
            return
        raw = request.json() if request.body.strip() else {}
        body, faults = convert(raw, ReplayBody)
        refuse(faults, replay_faults(raw))
        assert body is not None
        # The same changes to another run are another request.
        named = named_by(request.headers, {**raw, "replay_of": trace_id.lower()}, now=utc_now())
        try:
            run = await database_sync_to_async(replay_request)(
                principal=principal, tenants=tenants, trace_id=trace_id, body=body, named=named
            )
        except (NotFound, Conflict):
            # Retention may have taken what a repeated request repeats; its answer is there all the same.
            finished = await database_sync_to_async(repeated_replay)(tenants=tenants, named=named)
            if finished is None:
                raise
        else:
            finished = await _finish(run)
        original_id = trace_id.lower()
        compared = await database_sync_to_async(compare_with_original)(
            tenants=tenants, original_id=original_id, replay_id=finished.trace_id
        )
        answer = {**finished.body, "replay_of": original_id, "overrides": body.changes, **compared}
        await self.send_json(200, answer, headers_of(finished))


async def _finish(run: RunRequest) -> RunFinished:
    """Runs to the end. An error says which run was repeated."""
    finished: RunFinished | None = None
    try:
        async with aclosing(engine.run(run)) as events:
            async for event in events:
                if isinstance(event, RunFinished):
                    finished = event
    except ClasperError as error:
        error.details["replay_of"] = run.replay_of
        raise
    assert finished is not None
    return finished
