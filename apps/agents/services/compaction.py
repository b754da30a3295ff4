"""Compaction: the run that summarises the older turns of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from apps.agents.domain.compaction import TEMPERATURE, CompactBody, compact_instructions, compact_message
from apps.agents.domain.requests import Turn
from apps.agents.domain.run import Conversation, Idempotency, ModelOptions, RunRequest, RunScope, TraceRef


def compact_request(
    body: CompactBody,
    older: Sequence[Turn],
    *,
    scope: RunScope,
    trace: TraceRef,
    idempotency: Idempotency | None,
    now: datetime,
) -> RunRequest:
    """The run that summarises the older turns of a checked body."""
    return RunRequest(
        kind="compact",
        scope=scope,
        trace=trace,
        now=now,
        conversation=Conversation(
            message=compact_message(older), instructions=compact_instructions(body.instructions or "")
        ),
        options=ModelOptions(model=body.model or "cheap", temperature=TEMPERATURE),
        idempotency=idempotency,
        metadata=body.metadata or {},
    )
