"""The door of compaction: `POST /compact`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from apps.agents.consumers.base import RunConsumer, booked_for, named_by, refuse
from apps.agents.domain.answers import compact_answer, unchanged_answer
from apps.agents.domain.compaction import (
    TEMPERATURE,
    CompactBody,
    compact_faults,
    compact_instructions,
    compact_message,
    split,
)
from apps.agents.domain.requests import Turn
from apps.agents.domain.run import RunRequest
from apps.identity.domain.permissions import resolve_tenant
from clasper.core.auth import Principal
from clasper.core.clock import utc_now
from clasper.core.consumers import Request
from clasper.core.validation import convert


class CompactConsumer(RunConsumer):
    """`POST /compact`: a conversation, with its older part replaced by a summary."""

    async def answer(self, principal: Principal, request: Request) -> None:
        raw = request.json()
        body, faults = convert(raw, CompactBody)
        refuse(faults, compact_faults(raw))
        assert body is not None
        older, recent = split(body.messages, body.keep_recent)
        if not older:
            resolve_tenant(principal, body.tenant_id)
            await self.send_json(200, unchanged_answer(body.messages))
            return
        await self.collect(compact_request(principal, request.headers, body, raw, older=older, recent=recent))


def compact_request(
    principal: Principal,
    headers: Mapping[str, str],
    body: CompactBody,
    raw: dict[str, Any],
    *,
    older: Sequence[Turn],
    recent: Sequence[Turn],
) -> RunRequest:
    """The run that summarizes the older turns. Raises PermissionDenied for another tenant's name."""
    return RunRequest(
        kind="compact",
        message=compact_message(older),
        instructions=compact_instructions(body.instructions or ""),
        model=body.model or "cheap",
        temperature=TEMPERATURE,
        skip_backend=True,
        answer=partial(compact_answer, original_count=len(body.messages), recent=recent),
        **booked_for(principal, body, role="compact"),
        **named_by(headers, raw, now=utc_now()),
    )
