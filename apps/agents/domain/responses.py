"""The response bodies of runs, as the API reference spells them; entry points build them from a run's result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from msgspec import UNSET, Meta, UnsetType

from apps.agents.domain.compaction import summary_turn
from apps.agents.domain.json_output import ParsedOutput
from apps.agents.domain.requests import Turn
from apps.agents.domain.run import RunCost, RunResult
from clasper.core.money import usd
from clasper.core.schemas import Count, Resource, TraceId
from clasper.core.usage import Usage


class UsageBody(Resource, frozen=True, kw_only=True):
    """Tokens of all model calls of the run; cached ones count as prompt tokens."""

    prompt_tokens: Annotated[int, Meta(ge=0, examples=[1250])]
    completion_tokens: Annotated[int, Meta(ge=0, examples=[150])]
    total_tokens: Annotated[int, Meta(ge=0, examples=[1400])]

    @classmethod
    def of(cls, usage: Usage) -> UsageBody:
        return cls(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            total_tokens=usage.total_tokens,
        )


class CostBody(Resource, frozen=True, kw_only=True, rename="camel"):
    """Exact to the nano-dollar; inputCost and outputCost add up to totalCost."""

    model: Annotated[str, Meta(examples=["gpt-4o"])]
    input_tokens: Annotated[int, Meta(ge=0, examples=[1250])]
    output_tokens: Annotated[int, Meta(ge=0, examples=[150])]
    input_cost: Annotated[float, Meta(ge=0, examples=[0.0375])]
    output_cost: Annotated[float, Meta(ge=0, examples=[0.009])]
    total_cost: Annotated[float, Meta(ge=0, examples=[0.0465])]
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
    """The answer of an agent: the data of a stream's `done` event, besides its `type`."""

    task_id: Annotated[str | None, Meta(description="Null when `skip_backend` left no task.", examples=["task-1"])]
    trace_id: TraceId
    response: Annotated[str, Meta(description="The agent's answer.", examples=["Hello! How can I help?"])]
    usage: UsageBody
    cost: CostBody
    context_warning: Annotated[str | UnsetType, Meta(description="Present over CLASPER_CONTEXT_WARNING_THRESHOLD.")] = (
        UNSET
    )
    skipped_backend: Annotated[
        bool | UnsetType, Meta(description="Present when nothing was written to the control plane.")
    ] = UNSET

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

    path: Annotated[str, Meta(examples=["/city"])]
    message: Annotated[str, Meta(examples=["12 is not of type string"])]


class TaskResponse(Resource, frozen=True, kw_only=True):
    """The JSON value of a structured task; `validation_errors` only when it does not fulfil its schema."""

    status: Literal["ok"] = "ok"
    output: Annotated[Any, Meta(description="The JSON value.", examples=[{"city": "London"}])]
    usage: UsageBody
    cost: CostBody
    validated: Annotated[bool, Meta(description="There was a schema and the output fulfils it.")]
    trace_id: TraceId
    validation_errors: Annotated[
        Sequence[SchemaError] | UnsetType,
        Meta(description="Present when the output does not fulfil the schema, even after it was asked for again."),
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
    cost: Annotated[CostBody | None, Meta(description="Null when no model was asked.")]
    trace_id: Annotated[TraceId | None, Meta(description="Null when no model was asked.")]

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
    trace_id: Annotated[TraceId, Meta(description="The new run's trace.")]
    response: Annotated[str, Meta(examples=["Hello!"])]
    usage: UsageBody
    cost: CostBody
    output: Annotated[Any, Meta(description="Of a structured task.")] = UNSET
    validated: bool | UnsetType = UNSET
    replay_of: TraceId
    overrides: Annotated[
        Mapping[str, Any],
        Meta(
            description="What the body changed; of a prompt only `system_prompt_chars`.",
            examples=[{"tools": "recorded"}],
        ),
    ]
    diff: Annotated[
        Mapping[str, Any] | None,
        Meta(description="As of `POST /traces/diff`; null when the first run is gone.", examples=[{}]),
    ]
    summary_text: Annotated[str | None, Meta(examples=["Compared traces a vs b: no significant differences."])]

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

    message: Annotated[str, Meta(examples=["Hello"])]
    messages: Sequence[Turn]
    metadata: Annotated[Mapping[str, Any], Meta(examples=[{}])]


class WorkspaceSnapshot(Resource, frozen=True, kw_only=True):
    """The content of the workspace that the run used."""

    hash: Annotated[str, Meta(examples=["sha256:0f…"])]
    kept: Annotated[bool, Meta(description="False when this content is not stored.")]
    files: Annotated[Mapping[str, str], Meta(examples=[{"SOUL.md": "You are kind."}])]


class ReplayContext(Resource, frozen=True, kw_only=True):
    """What is needed to repeat a run."""

    trace_id: TraceId
    original_request: OriginalRequest
    workspace_snapshot: WorkspaceSnapshot
    skill_versions: Annotated[Mapping[str, str], Meta(examples=[{"summarize": "1.0.0"}])]
    kind: Annotated[str, Meta(examples=["send"])]
    model: Annotated[str, Meta(examples=["openai/gpt-4o"])]
    temperature: Annotated[float, Meta(examples=[0.7])]
    tools: Annotated[Sequence[str], Meta(examples=[["orders:lookup"]])]
