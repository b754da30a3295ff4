"""The run while it runs: what it has said, used and spent so far, and what of that is not written yet."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from apps.agents.domain.json_output import Reading
from apps.agents.domain.run import RunCost, RunRequest
from apps.agents.engine.admit import CallGrant
from apps.agents.engine.models import Candidate
from apps.agents.engine.plan import Plan
from apps.governance.domain.prices import Cost
from apps.traces.domain.record import Step, StepType
from clasper.core.money import NanoUSD
from clasper.core.usage import Usage, estimate_tokens
from clasper.gateways.control_plane import Caller, Tool
from clasper.gateways.llm.base import Completion, Message, ModelCall


@dataclass(frozen=True, slots=True)
class AuditNote:
    """An audit entry that goes with the next write."""

    event_type: str
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What a call asks of the model besides the conversation: as the request wants it, or as the host takes it.

    `max_output_tokens` None leaves it to what is paid for.
    """

    temperature: float | None
    max_output_tokens: int | None
    schema: Mapping[str, Any] | None

    @classmethod
    def of(cls, request: RunRequest) -> CallLimits:
        return cls(request.temperature, None, request.expects.asked_for if request.expects is not None else None)


@dataclass(slots=True)
class Run:
    """Mutable state of one run; only the engine's modules touch it.

    `steps` are those not yet written, `noted` all of them.
    """

    plan: Plan
    began: float
    deadline: float
    grant: CallGrant
    messages: list[Message]
    limits: CallLimits
    task_id: str = ""
    tools: Mapping[str, Tool] = field(default_factory=dict)
    schema_bytes: int = 0
    added_bytes: int = 0
    usage: Usage = Usage()
    cost_input: int = 0
    cost_output: int = 0
    estimated: bool = False
    answered_by: Candidate | None = None
    completion: Completion | None = None
    reading: Reading | None = None
    received: list[str] = field(default_factory=list)
    in_flight: Candidate | None = None
    call: ModelCall | None = None
    call_began: float = 0.0
    steps: list[Step] = field(default_factory=list)
    noted: list[Step] = field(default_factory=list)
    notes: list[AuditNote] = field(default_factory=list)
    unsettled_cost: int = 0
    unsettled_usage: Usage = Usage()
    tool_calls: int = 0
    _seq: int = 0

    @property
    def request(self) -> RunRequest:
        return self.plan.request

    @property
    def candidate(self) -> Candidate:
        """The model that answered last, or the one that was to answer."""
        return self.answered_by or self.in_flight or self.plan.model

    @property
    def caller(self) -> Caller:
        request = self.request
        return Caller(
            user_id=request.user_id,
            agent_role=request.agent_role,
            tenant_id=request.tenant_id,
            workspace_id=request.workspace_id,
            trace_id=request.trace_id,
        )

    def say(self, *messages: Message) -> None:
        """Goes on with the conversation; what is added counts for the next reservation."""
        self.messages += messages
        for message in messages:
            self.added_bytes += _bytes(message.content) + sum(_bytes(call.arguments) for call in message.tool_calls)

    def seconds_left(self) -> float:
        """Until the run's total deadline; never negative."""
        return max(0.0, self.deadline - asyncio.get_running_loop().time())

    def elapsed(self, started: float) -> int:
        """Whole milliseconds since `started`, on the loop's clock."""
        return round((asyncio.get_running_loop().time() - started) * 1000)

    def instant(self, at: float) -> datetime:
        """The wall-clock instant of a moment on the loop's clock, counted from the start of the run."""
        return self.request.now + timedelta(seconds=at - self.began)

    def add_step(self, kind: StepType, name: str, *, status: str, started: float, **facts: Any) -> None:
        """Notes a step that began at `started` on the loop's clock and ends now."""
        self._seq += 1
        duration = facts.pop("duration_ms", None)
        step = Step(
            seq=self._seq,
            type=kind,
            name=name,
            status=status,
            started_at=self.instant(started),
            duration_ms=self.elapsed(started) if duration is None else duration,
            **facts,
        )
        self.steps.append(step)
        self.noted.append(step)

    def book(self, usage: Usage, cost: Cost) -> NanoUSD:
        """Adds what a call used and cost to the run, to be settled with the next write."""
        self.usage += usage
        self.cost_input += cost.input
        self.cost_output += cost.output
        self.unsettled_usage += usage
        self.unsettled_cost += cost.total
        return cost.total

    def total_cost(self) -> RunCost:
        return RunCost(
            model=self.candidate.ref.model,
            input_tokens=self.usage.prompt_tokens,
            output_tokens=self.usage.output,
            input=NanoUSD(self.cost_input),
            output=NanoUSD(self.cost_output),
        )

    def estimated_usage(self, text: str) -> Usage:
        """What a call probably used when its provider did not say: the conversation's size and the text received."""
        prompt = self.plan.prompt_estimate + -(-(self.added_bytes + self.schema_bytes) // 4)
        return Usage(input=prompt, output=estimate_tokens(text))


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
