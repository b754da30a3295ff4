"""A stored run of the tests, written as the engine writes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from apps.traces.domain.record import Redacted, Status, TraceEnd, TraceRisk, TraceStart
from apps.traces.services.recording import close_trace, link_delivered, open_trace
from clasper.core.db import atomic_batch
from clasper.core.ids import new_id
from clasper.core.money import NanoUSD
from clasper.core.usage import Usage
from tests.world import ACME

START = datetime(2026, 2, 10, 12, 0, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """What is stored of a run; `status` running leaves it open."""

    id: str = field(default_factory=new_id)
    tenant_id: str = ACME
    agent_id: str = "support"
    workspace_id: str = "default"
    environment: str = "prod"
    provider: str = "openai"
    model: str = "gpt-4o-mini"
    status: Status = "success"
    started_at: datetime = START
    duration_ms: int = 1500
    usage: Usage = Usage(input=100, output=20)
    cost: int = 27_000
    risk: str = "low"
    labels: dict[str, str] = field(default_factory=dict)
    user_id: str = "u-1"
    kind: str = "send"
    task_id: str = ""
    message_id: str | None = None
    document_id: str | None = None
    replay_of: str = ""
    message: str = "Hello"
    answer: str = "Hi"

    def write(self) -> str:
        """Writes it as the engine does; gives the id."""
        opening = TraceStart(
            id=self.id,
            tenant_id=self.tenant_id,
            workspace_id=self.workspace_id,
            environment=self.environment,
            agent_id=self.agent_id,
            user_id=self.user_id,
            kind=self.kind,
            provider=self.provider,
            model=self.model,
            snapshot_hash="sha256:0",
            risk=TraceRisk(score=10, level=self.risk, factors={}),
            skills={"orders": "1.0.0"},
            labels=self.labels,
            input=Redacted({"message": self.message}, {}),
            replay_of=self.replay_of,
            started_at=self.started_at,
            lease_until=self.started_at + timedelta(minutes=2),
        )
        with atomic_batch() as batch:
            assert open_trace(opening)(batch)
        if self.status != "running":
            with atomic_batch() as batch:
                assert close_trace(self.closing())(batch)
                link_delivered(
                    batch,
                    tenant_id=self.tenant_id,
                    trace_id=self.id,
                    message_id=self.message_id,
                    document_id=self.document_id,
                )
        return self.id

    @property
    def ended_at(self) -> datetime:
        return self.started_at + timedelta(milliseconds=self.duration_ms)

    def closing(self) -> TraceEnd:
        return TraceEnd(
            id=self.id,
            tenant_id=self.tenant_id,
            status=self.status,
            ended_at=self.ended_at,
            duration_ms=self.duration_ms,
            provider=self.provider,
            model=self.model,
            usage=self.usage,
            cost=NanoUSD(self.cost),
            price_version="test",
            estimated=False,
            task_id=self.task_id,
            output=self.answer if self.status == "success" else None,
        )

    def dimensions(self) -> dict[str, str]:
        """What the run is summed by."""
        return {
            "status": self.status,
            "model": f"{self.provider}/{self.model}",
            "agent": self.agent_id,
            "workspace": self.workspace_id,
            "environment": self.environment,
            "risk": self.risk,
        }
