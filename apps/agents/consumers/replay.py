"""`GET` and `POST /traces/{id}/replay`."""

from __future__ import annotations

from apps.agents.consumers.base import RunConsumer, idempotency_of, trace_of
from apps.agents.domain.replay import ReplayBody
from apps.agents.domain.responses import ReplayResponse
from apps.agents.services.replay import describe_replay, replay
from apps.identity.domain.permissions import AGENTS_RUN, TRACES_READ, TRACES_WRITE, check_scope, resolve_tenant
from clasper.core.auth import Principal
from clasper.core.clock import utc_now
from clasper.core.consumers import Request
from clasper.core.threads import in_thread
from clasper.core.validation import read


class ReplayConsumer(RunConsumer):
    """`GET /traces/{id}/replay`: what a run was asked. `POST`: the run again, with changes, and the difference."""

    methods = ("GET", "POST")
    route = "/traces/<str:trace_id>/replay"

    def require_scopes(self, principal: Principal) -> None:
        for scope in (TRACES_READ,) if self.scope["method"] == "GET" else (AGENTS_RUN, TRACES_WRITE):
            check_scope(principal, scope)

    async def answer(self, principal: Principal, request: Request) -> None:
        trace_id = self.scope["url_route"]["kwargs"]["trace_id"].lower()
        if self.scope["method"] == "POST":
            await self._replay(principal, request, trace_id)
            return
        found = await in_thread(
            describe_replay,
            tenants=resolve_tenant(principal, None),
            trace_id=trace_id,
            actor=principal.actor,
            now=utc_now(),
        )
        await self.send_json(200, found)

    async def _replay(self, principal: Principal, request: Request, trace_id: str) -> None:
        raw = request.json() if request.body.strip() else {}
        body = read(ReplayBody, raw)
        outcome = await replay(
            principal=principal,
            tenants=resolve_tenant(principal, None),
            trace_id=trace_id,
            body=body,
            trace=trace_of(request.headers),
            # The same changes to another run are another request.
            idempotency=idempotency_of(request.headers, {**raw, "replay_of": trace_id}),
            now=utc_now(),
        )
        response = ReplayResponse.of(
            outcome.finished.result,
            replay_of=trace_id,
            overrides=body.changes,
            diff=outcome.diff,
            summary_text=outcome.summary_text,
        )
        await self.respond(outcome.finished, response)
