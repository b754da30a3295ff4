"""`POST /compact`."""

from __future__ import annotations

from apps.agents.consumers.base import RunConsumer, idempotency_of, scope_of, trace_of
from apps.agents.domain.compaction import CompactBody, split
from apps.agents.domain.responses import CompactResponse
from apps.agents.services.compaction import compact_request
from apps.agents.services.runs import collect
from clasper.core.auth import Principal
from clasper.core.clock import utc_now
from clasper.core.consumers import Request
from clasper.core.validation import read


class CompactConsumer(RunConsumer):
    """`POST /compact`: a conversation, with its older part replaced by a summary."""

    async def answer(self, principal: Principal, request: Request) -> None:
        raw = request.json()
        body = read(CompactBody, raw)
        scope = scope_of(principal, body, role="compact")
        older, recent = split(body.messages, body.keep_recent)
        if not older:
            await self.send_json(200, CompactResponse.unchanged(body.messages))
            return
        finished = await collect(
            compact_request(
                body,
                older,
                scope=scope,
                trace=trace_of(request.headers),
                idempotency=idempotency_of(request.headers, raw),
                now=utc_now(),
            )
        )
        response = CompactResponse.of(finished.result, original_count=len(body.messages), recent=recent)
        await self.respond(finished, response)
