"""What is written down of a run, as values: how it started, its steps, how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from apps.governance.domain.risk import Level
from clasper.core.money import NanoUSD
from clasper.core.schemas import Resource, about
from clasper.core.usage import Usage

Status = Literal["running", "success", "error", "timeout", "cancelled"]

StepType = Literal["llm_call", "tool_call", "error"]


@dataclass(frozen=True, slots=True)
class Redacted:
    """A JSON value after redaction, and how often each recogniser found something in it."""

    value: Any
    found: Mapping[str, int]


class TraceRisk(Resource, frozen=True, kw_only=True):
    """The run's risk as it was scored when it ran."""

    score: Annotated[int, about(example=7)]
    level: Level
    factors: Annotated[Mapping[str, Any], about(example={"toolBreadth": 0, "modelVolatility": 35})]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStart:
    """What is known of a run when it is admitted."""

    id: str
    tenant_id: str
    workspace_id: str
    environment: str
    agent_id: str
    user_id: str
    kind: str
    provider: str
    model: str
    snapshot_hash: str
    risk: TraceRisk
    skills: Mapping[str, str]
    labels: Mapping[str, str]
    input: Redacted
    started_at: datetime
    lease_until: datetime
    id_given: bool = False
    """The caller chose the id, so it may be taken."""
    replay_of: str = ""
    """The trace that this run repeats, if any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step. `input` and `output` are any JSON values; they are redacted before they are stored.

    `name` is the model or the tool. `status`: ok, error, denied, cancelled. `attempt` counts the tries of a model call.
    """

    seq: int
    type: StepType
    name: str
    status: str
    started_at: datetime
    duration_ms: int
    provider: str = ""
    code: str = ""
    attempt: int = 1
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: NanoUSD = NanoUSD(0)
    input: Any = None
    output: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceEnd:
    """How a run ended. `steps` are those that no checkpoint has written."""

    id: str
    tenant_id: str
    status: Status
    ended_at: datetime
    duration_ms: int
    provider: str
    model: str
    usage: Usage
    cost: NanoUSD
    price_version: str
    estimated: bool
    risk: TraceRisk | None = None
    steps: tuple[Step, ...] = ()
    output: str | None = None
    error_code: str = ""
    error: str = ""
    task_id: str = ""
    tools: bytes = b""
    """The tools that were offered to the model, a JSON array of name, description and parameters."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A running trace whose process is gone, with the sums of the steps that it recorded."""

    id: str
    tenant_id: str
    provider: str
    model: str
    started_at: datetime
    steps: int
    prompt_tokens: int
    completion_tokens: int
    cost: int
