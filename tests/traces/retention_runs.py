"""Stored runs for the tests of retention: written as the engine writes them, with texts in every place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from apps.traces.domain.record import Redacted, Status, Step, TraceEnd, TraceRisk, TraceStart
from apps.traces.domain.retention import in_sample
from apps.traces.models import Trace, TraceAnnotation, TraceLabel, TracePayload, TraceSkill, TraceStep
from apps.traces.services.recording import add_steps, close_trace, open_trace
from clasper.core.db import atomic_batch
from clasper.core.ids import new_id
from clasper.core.money import NanoUSD
from clasper.core.usage import Usage
from tests.world import ACME

NOW = datetime(2026, 2, 10, 12, 0, tzinfo=UTC)
TABLES = (TraceStep, TracePayload, TraceLabel, TraceSkill, TraceAnnotation)


def ids_where(*, sampled: bool, rate: float = 0.1) -> Iterator[str]:
    """New ids that a sample of this rate includes, or does not."""
    while True:
        found = new_id()
        if in_sample(found, rate) is sampled:
            yield found


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of `days` before NOW, with a step written on the way and one at its end."""

    id: str = field(default_factory=new_id)
    tenant_id: str = ACME
    days: float = 0
    status: Status = "success"
    labels: dict[str, str] = field(default_factory=dict)
    note: str = ""

    def write(self) -> str:
        """Stores it; `running` stays open. Gives the id."""
        self.open()
        if self.status != "running":
            self.close()
        if self.note:
            TraceAnnotation.objects.create(
                tenant_id=self.tenant_id, trace_id=self.id, key=self.note, value="", created_at=NOW, created_by="user:x"
            )
        return self.id

    @property
    def started_at(self) -> datetime:
        return NOW - timedelta(days=self.days)

    def open(self) -> None:
        opening = TraceStart(
            id=self.id,
            tenant_id=self.tenant_id,
            workspace_id="default",
            environment="prod",
            agent_id="support",
            user_id="u-1",
            kind="send",
            provider="openai",
            model="gpt-4o-mini",
            snapshot_hash="sha256:0",
            risk=TraceRisk(score=10, level="low", factors={}),
            skills={"orders": "1.0.0"},
            labels=self.labels,
            input=Redacted({"message": "question"}, {}),
            started_at=self.started_at,
            lease_until=self.started_at + timedelta(minutes=2),
        )
        with atomic_batch() as batch:
            assert open_trace(opening)(batch)
        with atomic_batch() as batch:
            add_steps(tenant_id=self.tenant_id, trace_id=self.id, steps=[self._step(1)])(batch)

    def close(self) -> None:
        failed = self.status in ("error", "timeout")
        closing = TraceEnd(
            id=self.id,
            tenant_id=self.tenant_id,
            status=self.status,
            ended_at=self.started_at,
            duration_ms=1500,
            provider="openai",
            model="gpt-4o-mini",
            usage=Usage(input=100, output=20),
            cost=NanoUSD(27_000),
            price_version="test",
            estimated=False,
            steps=(self._step(2),),
            output="answer" if self.status == "success" else None,
            error_code="provider_error" if failed else "",
            error="reason" if failed else "",
        )
        with atomic_batch() as batch:
            assert close_trace(closing)(batch)

    def _step(self, seq: int) -> Step:
        return Step(
            seq=seq,
            type="tool_call",
            name="orders:lookup",
            status="ok",
            started_at=self.started_at,
            duration_ms=5,
            input={"argument": seq},
            output={"result": seq},
        )


def texts(trace_id: str) -> set[str]:
    """The texts that are stored of a run, by what they hold."""
    found = set()
    for row in TracePayload.objects.filter(trace_id=trace_id):
        if row.seq:
            found.add(f"step {row.seq}")
        else:
            found |= {name for name in ("input", "output") if getattr(row, name) is not None}
    if Trace.objects.get(id=trace_id).error:
        found.add("error")
    return found


def left(tenant_id: str = ACME) -> set[str]:
    """The ids of the tenant's traces."""
    return set(Trace.objects.for_tenant(tenant_id).values_list("id", flat=True))


def rows_of(trace_id: str) -> dict[str, int]:
    """How many rows each table has of a trace."""
    counts: dict[str, int] = {}
    models: tuple[Any, ...] = TABLES
    for model in models:
        counts[model.__name__] = model.objects.filter(trace_id=trace_id).count()
    return counts
