"""The run while it runs: what it has said, used and spent so far, and what of that is not yet written."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from apps.agents.domain.json_output import ParsedOutput
from apps.agents.domain.run import RunCost, RunRequest
from apps.agents.engine.models import Candidate
from apps.agents.engine.plan import Plan, utf8_size
from apps.governance.domain.prices import Cost, Price
from apps.traces.domain.record import Step, StepType
from clasper.core.money import NanoUSD
from clasper.core.usage import Usage, estimate_tokens
from clasper.gateways.control_plane import Caller, Tool
from clasper.gateways.llm.base import Completion, Message, ModelCall


@dataclass(frozen=True, slots=True)
class CallBudget:
    """The next model call is paid for: at most this many output tokens, booked at this price.

    `estimated` says that the price is a guess: the model's own is unknown.
    """

    max_output_tokens: int
    price: Price
    estimated: bool


@dataclass(frozen=True, slots=True)
class CallParams:
    """What a call asks of the model in addition to the conversation: as the request says, or as the provider accepts.

    `max_output_tokens` None leaves it to the call's budget.
    """

    temperature: float | None
    max_output_tokens: int | None
    schema: Mapping[str, Any] | None

    @classmethod
    def of(cls, request: RunRequest) -> CallParams:
        output = request.options.output
        return cls(request.options.temperature, None, output.requested if output is not None else None)


NO_ANSWER = Completion(text="", tool_calls=(), finish="error", usage=Usage(), usage_reported=False, model="")
"""The answer until there is one; it cannot be mistaken for an answer that may be used."""


@dataclass(slots=True)
class Unwritten:
    """What happened in a run and is not yet in the database: paid calls, steps and audit entries (event, details)."""

    cost: int = 0
    usage: Usage = Usage()
    steps: list[Step] = field(default_factory=list)
    audit_entries: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    def __add__(self, later: Unwritten) -> Unwritten:
        return Unwritten(
            self.cost + later.cost,
            self.usage + later.usage,
            self.steps + later.steps,
            self.audit_entries + later.audit_entries,
        )


@dataclass(slots=True)
class Run:
    """Mutable state of one run; only the engine's modules touch it. `steps` are all steps, written or not."""

    plan: Plan
    request: RunRequest
    tenant_id: str
    trace_id: str
    began: float
    deadline: float
    budget: CallBudget
    messages: list[Message]
    params: CallParams
    task_id: str = ""
    tools: Mapping[str, Tool] = field(default_factory=dict)
    schema_bytes: int = 0
    added_bytes: int = 0
    usage: Usage = Usage()
    cost_input: int = 0
    cost_output: int = 0
    estimated: bool = False
    model_used: Candidate | None = None
    completion: Completion = NO_ANSWER
    parsed: ParsedOutput | None = None
    received: list[str] = field(default_factory=list)
    in_flight: Candidate | None = None
    call: ModelCall | None = None
    call_began: float = 0.0
    steps: list[Step] = field(default_factory=list)
    unwritten: Unwritten = field(default_factory=Unwritten)
    tool_calls: int = 0

    @property
    def candidate(self) -> Candidate:
        """The model that answered last, or the one that was to answer."""
        return self.model_used or self.in_flight or self.plan.model

    @property
    def caller(self) -> Caller:
        """On whose behalf the control plane is called."""
        scope = self.request.scope
        return Caller(
            user_id=scope.user_id,
            agent_role=scope.agent_role,
            tenant_id=scope.tenant_id,
            workspace_id=scope.workspace_id,
            trace_id=self.trace_id,
        )

    def append_messages(self, *messages: Message) -> None:
        """Continues the conversation; what is added counts for the next reservation."""
        self.messages += messages
        for message in messages:
            self.added_bytes += utf8_size(message.content)
            self.added_bytes += sum(utf8_size(call.arguments) for call in message.tool_calls)

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
        """Adds a step that began at `started` on the loop's clock and ends now."""
        duration = facts.pop("duration_ms", None)
        step = Step(
            seq=len(self.steps) + 1,
            type=kind,
            name=name,
            status=status,
            started_at=self.instant(started),
            duration_ms=self.elapsed(started) if duration is None else duration,
            **facts,
        )
        self.steps.append(step)
        self.unwritten.steps.append(step)

    def add_audit_entry(self, event_type: str, details: Mapping[str, Any]) -> None:
        """Adds an audit entry that goes with the next write."""
        self.unwritten.audit_entries.append((event_type, details))

    def book(self, usage: Usage, cost: Cost) -> NanoUSD:
        """Adds what a call used and cost to the run, to be settled with the next write."""
        self.usage += usage
        self.cost_input += cost.input
        self.cost_output += cost.output
        self.unwritten.usage += usage
        self.unwritten.cost += cost.total
        return cost.total

    def take_unwritten(self) -> Unwritten:
        """What is to be written now; the run starts with an empty collection again."""
        taken, self.unwritten = self.unwritten, Unwritten()
        return taken

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
