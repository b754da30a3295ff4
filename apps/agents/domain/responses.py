"""The response bodies of runs, as the API reference spells them; entry points build them from a run's result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from msgspec import UNSET, UnsetType

from apps.agents.domain.compaction import summary_turn
from apps.agents.domain.json_output import ParsedOutput
from apps.agents.domain.requests import Turn
from apps.agents.domain.run import RunCost, RunResult
from clasper.core.money import usd
from clasper.core.schemas import Count, Resource, TraceId, about
from clasper.core.usage import Usage


class UsageBody(Resource, frozen=True, kw_only=True):
    """Tokens of all model calls of the run; cached ones count as prompt tokens."""

    prompt_tokens: Annotated[int, about(example=1250, ge=0)]
    completion_tokens: Annotated[int, about(example=150, ge=0)]
    total_tokens: Annotated[int, about(example=1400, ge=0)]

    @classmethod
    def of(cls, usage: Usage) -> UsageBody:
        return cls(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            total_tokens=usage.total_tokens,
        )


class CostBody(Resource, frozen=True, kw_only=True, rename="camel"):
    """Exact to the nano-dollar; inputCost and outputCost add up to totalCost."""

    model: Annotated[str, about(example="gpt-4o")]
    input_tokens: Annotated[int, about(example=1250, ge=0)]
    output_tokens: Annotated[int, about(example=150, ge=0)]
    input_cost: Annotated[float, about(example=0.0375, ge=0)]
    output_cost: Annotated[float, about(example=0.009, ge=0)]
    total_cost: Annotated[float, about(example=0.0465, ge=0)]
    currency: Literal["USD"] = "USD"

    @classmethod
    def of(cls, cost: RunCost) -> CostBody:
        return cls(
            model=cost.model,
            input_tokens=cost.input_tokens,
            output_tokens=cost.output_tokens,
            input_cost=usd(cost.input),
            output_cost=usd(cost.output),
            total_cost=usd(cost.total),
        )


class AgentAnswer(Resource, frozen=True, kw_only=True):
    """The answer of an agent; with a `type`, it is the data of a stream's `done` event."""

    task_id: Annotated[str | None, about("Null when `skip_backend` left no task.", example="task-1")]
    trace_id: TraceId
    response: Annotated[str, about("The agent's answer.", example="Hello! How can I help?")]
    usage: UsageBody
    cost: CostBody
    context_warning: Annotated[str | UnsetType, about("Present over CLASPER_CONTEXT_WARNING_THRESHOLD.")] = UNSET
    skipped_backend: Annotated[bool | UnsetType, about("Present when nothing was written to the control plane.")] = (
        UNSET
    )

    @classmethod
    def of(cls, result: RunResult) -> Self:
        return cls(
            task_id=result.task_id or None,
            trace_id=result.trace_id,
            response=result.text,
            usage=UsageBody.of(result.usage),
            cost=CostBody.of(result.cost),
            context_warning=result.context_warning or UNSET,
            skipped_backend=result.skipped_backend or UNSET,
        )


class SendResponse(AgentAnswer, frozen=True, kw_only=True):
    """The answer of an agent."""

    status: Literal["ok"] = "ok"


class SchemaError(Resource, frozen=True, kw_only=True):
    """Where an output does not fulfil its schema."""

    path: Annotated[str, about(example="/city")]
    message: Annotated[str, about(example="12 is not of type string")]


class TaskResponse(Resource, frozen=True, kw_only=True):
    """The JSON value of a structured task; `validation_errors` only when it does not fulfil its schema."""

    status: Literal["ok"] = "ok"
    output: Annotated[Any, about("The JSON value.", example={"city": "London"})]
    usage: UsageBody
    cost: CostBody
    validated: Annotated[bool, about("There was a schema and the output fulfils it.")]
    trace_id: TraceId
    validation_errors: Annotated[
        Sequence[SchemaError] | UnsetType,
        about("Present when the output does not fulfil the schema, even after it was asked for again."),
    ] = UNSET

    @classmethod
    def of(cls, result: RunResult) -> TaskResponse:
        parsed = result.parsed or ParsedOutput()
        return cls(
            output=parsed.value,
            usage=UsageBody.of(result.usage),
            cost=CostBody.of(result.cost),
            validated=parsed.validated,
            trace_id=result.trace_id,
            validation_errors=[SchemaError(**each) for each in parsed.errors] or UNSET,
        )


class CompactResponse(Resource, frozen=True, kw_only=True):
    """The conversation with its older turns replaced by a summary; without a cost when no model was asked."""

    status: Literal["ok"] = "ok"
    compacted_messages: Sequence[Turn]
    usage: UsageBody
    original_count: Count
    compacted_count: Count
    cost: Annotated[CostBody | None, about("Null when no model was asked.")]
    trace_id: Annotated[TraceId | None, about("Null when no model was asked.")]

    @classmethod
    def of(cls, result: RunResult, *, original_count: int, recent: Sequence[Turn]) -> CompactResponse:
        messages = [summary_turn(result.text), *recent]
        return cls(
            compacted_messages=messages,
            usage=UsageBody.of(result.usage),
            original_count=original_count,
            compacted_count=len(messages),
            cost=CostBody.of(result.cost),
            trace_id=result.trace_id,
        )

    @classmethod
    def unchanged(cls, turns: Sequence[Turn]) -> CompactResponse:
        """The response when nothing is older than what is kept, so that no model was asked."""
        count = len(turns)
        return cls(
            compacted_messages=turns,
            usage=UsageBody.of(Usage()),
            original_count=count,
            compacted_count=count,
            cost=None,
            trace_id=None,
        )


class ReplayResponse(Resource, frozen=True, kw_only=True):
    """The answer of a replay, and how the run differs from the one it repeats (nulls when that one is gone)."""

    status: Literal["ok"] = "ok"
    trace_id: Annotated[TraceId, about("The new run's trace.")]
    response: Annotated[str, about(example="Hello!")]
    usage: UsageBody
    cost: CostBody
    output: Annotated[Any, about("Of a structured task.")] = UNSET
    validated: bool | UnsetType = UNSET
    replay_of: TraceId
    overrides: Annotated[
        Mapping[str, Any],
        about("What the body changed; of a prompt only `system_prompt_chars`.", example={"tools": "recorded"}),
    ]
    diff: Annotated[
        Mapping[str, Any] | None, about("As of `POST /traces/diff`; null when the first run is gone.", example={})
    ]
    summary_text: Annotated[str | None, about(example="Compared traces a vs b: no significant differences.")]

    @classmethod
    def of(
        cls,
        result: RunResult,
        *,
        replay_of: str,
        overrides: Mapping[str, Any],
        diff: Mapping[str, Any] | None,
        summary_text: str | None,
    ) -> ReplayResponse:
        return cls(
            trace_id=result.trace_id,
            response=result.text,
            usage=UsageBody.of(result.usage),
            cost=CostBody.of(result.cost),
            output=result.parsed.value if result.parsed else UNSET,
            validated=result.parsed.validated if result.parsed else UNSET,
            replay_of=replay_of,
            overrides=overrides,
            diff=diff,
            summary_text=summary_text,
        )


class OriginalRequest(Resource, frozen=True, kw_only=True):
    """What was asked, redacted."""

    message: Annotated[str, about(example="Hello")]
    messages: Sequence[Turn]
    metadata: Annotated[Mapping[str, Any], about(example={})]


class WorkspaceSnapshot(Resource, frozen=True, kw_only=True):
    """The content of the workspace that the run used."""

    hash: Annotated[str, about(example="sha256:0f…")]
    kept: Annotated[bool, about("False when this content is not stored.")]
    files: Annotated[Mapping[str, str], about(example={"SOUL.md": "You are kind."})]


class ReplayContext(Resource, frozen=True, kw_only=True):
    """What is needed to repeat a run."""

    trace_id: TraceId
    original_request: OriginalRequest
    workspace_snapshot: WorkspaceSnapshot
    skill_versions: Annotated[Mapping[str, str], about(example={"summarize": "1.0.0"})]
    kind: Annotated[str, about(example="send")]
    model: Annotated[str, about(example="openai/gpt-4o")]
    temperature: Annotated[float, about(example=0.7)]
    tools: Annotated[Sequence[str], about(example=["orders:lookup"])]
