"""A run as values: whose it is, what was asked and how it is to be answered, and the events on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from apps.agents.domain.delivery import WebhookTarget
from apps.agents.domain.json_output import OutputSpec
from apps.agents.domain.replay import Recording
from apps.agents.domain.requests import Turn, Webhook
from apps.agents.domain.result import RunResult
from clasper.core.auth import Principal

Kind = Literal["send", "stream", "llm_task", "compact", "check", "replay"]

TEMPERATURE = 0.4
"""What runs have always used: lively enough to converse, steady enough to follow rules."""


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
    """The run drafts a plan: `note` steers it and heads the document that is written under `plan_title`."""

    note: str = ""
    plan_title: str = "Plan"


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

    With a `recording` its tools answer as they did then, and nobody is asked. Without one the tools are called, if the
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
    webhook: Webhook | None = None
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

    @property
    def webhook_target(self) -> WebhookTarget | None:
        """Where the end of the run is to be reported, if anywhere."""
        if self.webhook is None:
            return None
        return WebhookTarget(
            url=self.webhook.url,
            secret=self.webhook.secret or "",
            headers=self.webhook.headers,
            user_id=self.scope.user_id,
            role=self.scope.agent_role,
        )


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
