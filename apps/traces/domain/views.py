"""What is shown of a run: the row of a list, the whole trace, the sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import UNSET, UnsetType, field

from apps.governance.domain.risk import Level
from apps.traces.domain.record import Status, StepType, TraceRisk
from apps.traces.domain.retention import StorageMode
from clasper.core.schemas import Count, Instant, Money, Resource, TenantId, TraceId, about

Labels = Annotated[Mapping[str, str], about(example={"team": "blue"})]


class TraceSummary(Resource, frozen=True, kw_only=True):
    """A run in a list, without its texts."""

    id: TraceId
    tenant_id: TenantId
    agent_id: Annotated[str, about("The agent's role.", example="support")]
    status: Annotated[Status, about(example="success")]
    started_at: Instant = field(name="start_time")
    ended_at: Instant | None = field(name="end_time")
    duration_ms: Count | None
    total_tokens: Count
    cost: Money = field(name="total_cost")
    labels: Labels
    workspace_id: Annotated[str, about(example="default")]
    environment: Annotated[str, about(example="default")]
    user_id: Annotated[str, about(example="ada")]
    kind: Annotated[str, about("`send`, `stream`, `llm_task`, …", example="send")]
    provider: Annotated[str, about(example="openai")]
    model: Annotated[str, about(example="gpt-4o")]
    error_code: Annotated[str | None, about(example=None)]
    risk_score: Annotated[int, about(example=7)]
    risk_level: Level
    estimated: Annotated[bool, about("The price was not known.", example=False)]


class StepView(Resource, frozen=True, kw_only=True):
    """A step. `model` … `cost` belong to model calls, `tool_name` … `success` to tool calls, `name` to the others.

    `input` and `output` are redacted, and null when they were stripped.
    """

    seq: Count
    type: StepType
    status: Annotated[str, about(example="ok")]
    code: Annotated[str | None, about(example=None)]
    duration_ms: Count
    started_at: Instant = field(name="timestamp")
    model: Annotated[str | UnsetType, about(example="gpt-4o")] = UNSET
    provider: Annotated[str | UnsetType, about(example="openai")] = UNSET
    attempt: Annotated[int | UnsetType, about(example=1)] = UNSET
    prompt_tokens: Annotated[int | UnsetType, about(example=1250)] = UNSET
    completion_tokens: Annotated[int | UnsetType, about(example=150)] = UNSET
    cost: Annotated[Money | UnsetType, about(example=0.0485)] = UNSET
    tool_name: str | UnsetType = UNSET
    arguments: Any = field(name="input", default=UNSET)
    output: Any = field(default=UNSET)
    permitted: bool | UnsetType = UNSET
    success: bool | UnsetType = UNSET
    label: str | UnsetType = field(name="name", default=UNSET)

    @property
    def name(self) -> str:
        """The model, the tool, or what failed."""
        return self.tool_name or self.model or self.label or ""

    @property
    def input(self) -> Any:
        """The arguments of a tool call; None for other steps."""
        return None if self.arguments is UNSET else self.arguments


class AnnotationView(Resource, frozen=True, kw_only=True, rename="camel"):
    """A note on a run."""

    id: Count
    trace_id: TraceId
    key: Annotated[str, about(example="incident")]
    value: Annotated[str, about(example="INC-123")]
    created_at: Instant
    created_by: Annotated[str, about("As named, or the credential, type:id.", example="user:ada")]


class TraceUsage(Resource, frozen=True, kw_only=True):
    """Tokens of all model calls of the run; cached ones count as prompt tokens."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    cached_tokens: Count
    cache_write_tokens: Count
    reasoning_tokens: Count


class TraceCost(Resource, frozen=True, kw_only=True, rename="camel"):
    """What the run cost."""

    model: Annotated[str, about(example="gpt-4o")]
    total_cost: Money
    currency: Literal["USD"] = "USD"
    price_version: Annotated[str, about(example="genai-prices 0.2.3")]


class TraceDetail(TraceSummary, frozen=True, kw_only=True):
    """Everything that is kept of a run. `input` and `output` are redacted, and null when they were stripped."""

    snapshot_hash: Annotated[
        str, about("Of the workspace's snapshot; empty for a run without a workspace.", example="sha256:0f…")
    ] = field(name="workspace_hash")
    skill_versions: Annotated[Mapping[str, str], about(example={"summarize": "1.0.0"})]
    task_id: Annotated[str | None, about(example="task-1")]
    document_id: Annotated[str | None, about(example=None)]
    message_id: Annotated[str | None, about(example=None)]
    steps: tuple[StepView, ...]
    usage: TraceUsage
    priced: TraceCost = field(name="cost")
    error: Annotated[str | None, about(example=None)]
    risk: TraceRisk
    redactions: Count
    storage_mode: StorageMode
    replay_of: Annotated[str | None, about("The run that this one repeats.", example=None)]
    annotations: tuple[AnnotationView, ...]
    input: Annotated[Any, about(example={"message": "Hello"})]
    output: Annotated[Any, about(example={"response": "Hi"})]


class ExportedTrace(TraceSummary, frozen=True, kw_only=True):
    """A run in an export; steps and texts only if they were asked for."""

    steps: tuple[StepView, ...] | UnsetType = UNSET
    input: Any = field(default=UNSET)
    output: Any = field(default=UNSET)


class TracePage(Resource, frozen=True, kw_only=True):
    """A page of a list of runs, newest first."""

    traces: tuple[TraceSummary, ...]
    total: Count
    total_is_exact: Annotated[bool, about("False when more runs match than are counted.")]
    next_cursor: Annotated[str | None, about("Null on the last page.", example=None)]
    limit: Count
    offset: Annotated[Count | UnsetType, about("Of `GET /traces`.")] = UNSET
    text_searched: Annotated[Count | UnsetType, about("How many runs' texts were read, if a text was asked for.")] = (
        UNSET
    )


class Sums(Resource, frozen=True, kw_only=True):
    """What ended runs took."""

    total_traces: Count
    avg_duration_ms: Count
    total_tokens: Count
    total_cost: Money


class GroupSums(Sums, frozen=True, kw_only=True):
    """The sums of a group; the field that the runs were grouped by names it."""

    day: Annotated[str | UnsetType, about(example="2026-02-01")] = UNSET
    status: str | UnsetType = UNSET
    model: Annotated[str | UnsetType, about(example="gpt-4o")] = UNSET
    agent_id: str | UnsetType = UNSET
    workspace_id: str | UnsetType = UNSET
    environment: str | UnsetType = UNSET
    risk_level: str | UnsetType = UNSET


class StatsAnswer(Sums, frozen=True, kw_only=True):
    """The sums of all runs; with `group_by` also of every group."""

    traces_by_status: Annotated[Mapping[str, int], about(example={"success": 10, "error": 1, "timeout": 1})]
    error_rate: Annotated[float, about("The share that did not succeed.", example=0.1667)]
    groups: tuple[GroupSums, ...] | UnsetType = UNSET
    groups_are_complete: Annotated[bool | UnsetType, about("False when there are more groups than are returned.")] = (
        UNSET
    )
