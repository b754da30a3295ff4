"""A run as values: what was asked, what came of it, and the events on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from apps.agents.domain.delivery import WebhookTarget
from apps.agents.domain.json_output import JsonOutput, Reading
from apps.agents.domain.replay import Recording
from apps.agents.domain.requests import Turn, Webhook
from apps.workspaces.domain.workspace import Workspace
from clasper.core.auth import Principal
from clasper.core.money import NanoUSD, usd
from clasper.core.usage import Usage

Kind = Literal["send", "stream", "llm_task", "compact", "check", "replay"]

TEMPERATURE = 0.4
"""What runs have always used: lively enough to converse, steady enough to follow rules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCost:
    """What the run's model calls cost; `input` includes cached reads and cache writes."""

    model: str
    input_tokens: int
    output_tokens: int
    input: NanoUSD
    output: NanoUSD

    @property
    def total(self) -> NanoUSD:
        return NanoUSD(self.input + self.output)

    def as_json(self) -> dict[str, Any]:
        """The `cost` object of the API; inputCost and outputCost add up to totalCost exactly."""
        return {
            "model": self.model,
            "inputTokens": self.input_tokens,
            "outputTokens": self.output_tokens,
            "inputCost": usd(self.input),
            "outputCost": usd(self.output),
            "totalCost": usd(self.total),
            "currency": "USD",
        }


def usage_json(usage: Usage) -> dict[str, int]:
    """The `usage` object of the API: cached tokens count as prompt tokens."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A run that ended well."""

    trace_id: str
    task_id: str
    text: str
    usage: Usage
    cost: RunCost
    reading: Reading | None = None
    context_warning: str = ""
    skipped_backend: bool = False


def send_answer(result: RunResult) -> dict[str, Any]:
    """The response body of `POST /api/agents/send`."""
    body: dict[str, Any] = {
        "status": "ok",
        "task_id": result.task_id or None,
        "trace_id": result.trace_id,
        "response": result.text,
        "usage": usage_json(result.usage),
        "cost": result.cost.as_json(),
    }
    if result.context_warning:
        body["context_warning"] = result.context_warning
    if result.skipped_backend:
        body["skipped_backend"] = True
    return body


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """Everything the engine needs to know; identity, tenant and time are part of it, nothing is ambient.

    `instructions` is a system prompt of Clasper's own in place of the workspace's; such a run has no skills and no
    tools. `system_prompt` is the caller's, in place of either. `expects` says that the answer must be JSON. `answer`
    makes the response body of the run's result.

    A replay names the trace it repeats in `replay_of`, the `workspace` that trace used, and `as_of`, when that was.
    With a `recording` its tools answer as they did then, and nobody is asked.
    """

    trace_id: str
    trace_id_given: bool
    kind: Kind
    principal: Principal
    tenant_id: str
    workspace_id: str
    environment: str
    user_id: str
    agent_role: str
    message: str
    history: tuple[Turn, ...] = ()
    task_id: str = ""
    task_title: str = ""
    task_description: str = ""
    task_metadata: Mapping[str, Any] | None = None
    system_prompt: str | None = None
    instructions: str | None = None
    temperature: float = TEMPERATURE
    max_output_tokens: int | None = None
    expects: JsonOutput | None = None
    kickoff_plan: bool = False
    kickoff_note: str = ""
    plan_title: str = "Plan"
    timezone: str = ""
    model: str = ""
    skip_backend: bool = False
    force_include_skills: tuple[str, ...] = ()
    replay_of: str = ""
    workspace: Workspace | None = None
    as_of: datetime | None = None
    recording: Recording | None = None
    webhook: Webhook | None = None
    idempotency_key: str = ""
    fingerprint: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    answer: Callable[[RunResult], dict[str, Any]] = send_answer
    now: datetime

    @property
    def streams(self) -> bool:
        """Whether the answer is forwarded as it is written."""
        return self.kind == "stream"

    @property
    def calls_again(self) -> bool:
        """Whether it is a replay that really calls its tools."""
        return bool(self.replay_of) and self.recording is None

    @property
    def webhook_target(self) -> WebhookTarget | None:
        """Where the end of the run is to be reported, if anywhere."""
        if self.webhook is None:
            return None
        return WebhookTarget(
            url=self.webhook.url,
            secret=self.webhook.secret or "",
            headers=self.webhook.headers,
            user_id=self.user_id,
            role=self.agent_role,
        )

    @property
    def actor(self) -> str:
        """The agent, as audit entries name it."""
        return f"agent:{self.agent_role}"


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
    """The run ended well; `body` is its response, which a repeated request gets again."""

    trace_id: str
    body: Mapping[str, Any]
    replayed: bool = False
    webhook_pending: bool = False


RunEvent = RunStarted | TextChunk | ToolStarted | ToolFinished | RunFinished
