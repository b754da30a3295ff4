"""A run as values: whose it is, what was asked and how it is to be answered, what came of it, and its events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import msgspec

from apps.agents.domain.delivery import WebhookTarget
from apps.agents.domain.json_output import OutputSpec, ParsedOutput
from apps.agents.domain.replay import Recording
from apps.agents.domain.requests import Turn
from clasper.core.auth import Principal
from clasper.core.money import NanoUSD
from clasper.core.usage import Usage

Kind = Literal["send", "stream", "llm_task", "compact", "check", "replay"]

CONVERSATIONS: frozenset[Kind] = frozenset({"send", "stream"})
"""Two ways to receive the same answer."""

TEMPERATURE = 0.4
"""What runs have always used: lively enough to converse, steady enough to follow rules."""

DEFAULT_KICKOFF = "Draft a short, concrete plan for the request below before anything else."


@dataclass(frozen=True, slots=True, kw_only=True)
class RunScope:
    """Who asked, and the tenant, workspace, environment, user and role that the run belongs to."""

    principal: Principal
    tenant_id: str
    workspace_id: str = "default"
    environment: str = "default"
    user_id: str = ""
    agent_role: str

    @property
    def actor(self) -> str:
        """The agent, as audit entries name it."""
        return f"agent:{self.agent_role}"


@dataclass(frozen=True, slots=True)
class TraceRef:
    """The trace that the run writes. `chosen` says that the caller chose its id, so another run may have it."""

    trace_id: str
    chosen: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Idempotency:
    """The caller's Idempotency-Key, and a digest of the body that it came with."""

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Kickoff:
    """The run writes a plan: `note` steers it and heads the document that is stored under `plan_title`."""

    note: str = ""
    plan_title: str = "Plan"

    def message(self, request: str) -> str:
        """The user's message: the note, or the default one, and then the request."""
        return f"{self.note or DEFAULT_KICKOFF}\n\nUser request: {request}"

    def document(self, reply: str) -> str:
        """The plan document: headed by the note if there is one."""
        return f"{self.note}\n\n{reply}" if self.note else reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What is asked.

    `instructions` is a system prompt of Clasper's own in place of the workspace's; such a run has no skills and no
    tools. `system_prompt` is the caller's, in place of either.
    """

    message: str
    history: tuple[Turn, ...] = ()
    instructions: str | None = None
    system_prompt: str | None = None
    kickoff: Kickoff | None = None
    timezone: str = ""
    force_include_skills: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """How the model answers. An empty `model` leaves the choice to the release, the role and the default.

    `output` says that the answer must be JSON.
    """

    model: str = ""
    temperature: float = TEMPERATURE
    max_output_tokens: int | None = None
    output: OutputSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendOptions:
    """What is written to the control plane: a message, and the task it belongs to when there is no `task_id`."""

    skip: bool = False
    task_id: str = ""
    task_title: str = ""
    task_description: str = ""
    task_metadata: Mapping[str, Any] = field(default_factory=dict)


NO_BACKEND = BackendOptions(skip=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySource:
    """The run that a replay repeats: its trace, what the replay changes, and when it ran.

    With a `recording` its tools answer as they did then, without a call. Without one the tools are called, if the
    current release grants them too.
    """

    trace_id: str
    overrides: Mapping[str, Any]
    as_of: datetime
    recording: Recording | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """Everything the engine needs to know. `metadata` is the caller's, as it came; it is kept with the trace."""

    kind: Kind
    scope: RunScope
    trace: TraceRef
    now: datetime
    conversation: Conversation
    options: ModelOptions = ModelOptions()
    backend: BackendOptions = NO_BACKEND
    webhook: WebhookTarget | None = None
    idempotency: Idempotency | None = None
    replay: ReplaySource | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def streams(self) -> bool:
        """Whether the answer is forwarded as it is written."""
        return self.kind == "stream"

    @property
    def recording(self) -> Recording | None:
        """The tool calls that answer in place of the control plane, if any."""
        return self.replay.recording if self.replay else None

    @property
    def runs_live_tools(self) -> bool:
        """Whether it is a replay that really calls its tools."""
        return self.replay is not None and self.replay.recording is None


class RunCost(msgspec.Struct, frozen=True, kw_only=True):
    """What the run's model calls cost, in nano-USD; `input` includes cached reads and cache writes."""

    model: str
    input_tokens: int
    output_tokens: int
    input: NanoUSD
    output: NanoUSD

    @property
    def total(self) -> NanoUSD:
        return NanoUSD(self.input + self.output)


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, its usage and its cost. It is stored under an Idempotency-Key, so every field must encode as JSON.

    `parsed` is the answer as JSON, where JSON was asked for.
    """

    kind: Kind
    trace_id: str
    task_id: str
    text: str
    usage: Usage
    cost: RunCost
    parsed: ParsedOutput | None = None
    context_warning: str = ""
    skipped_backend: bool = False


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run is admitted: its money is reserved and its trace is open."""

    trace_id: str


@dataclass(frozen=True, slots=True)
class TextChunk:
    """A piece of the answer as the model writes it."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """The model called a tool."""

    name: str


@dataclass(frozen=True, slots=True)
class ToolFinished:
    """A tool call ended: status ok, error or denied."""

    name: str
    status: str
    duration_ms: int


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run ended well. `repeated`: the result is that of an earlier run with the same Idempotency-Key."""

    result: RunResult
    repeated: bool = False
    webhook_pending: bool = False


RunEvent = RunStarted | TextChunk | ToolStarted | ToolFinished | RunFinished
