"""The response bodies of runs, as the API reference spells them; entry points build them from a run's result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from apps.agents.domain.compaction import summary_turn
from apps.agents.domain.json_output import ParsedOutput
from apps.agents.domain.requests import Turn
from apps.agents.domain.result import RunCost, RunResult
from clasper.core.money import usd
from clasper.core.usage import Usage


class UsageBody(msgspec.Struct, frozen=True):
    """Tokens of all model calls of the run; cached ones count as prompt tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> UsageBody:
        return cls(usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)


class CostBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Exact to the nano-dollar; inputCost and outputCost add up to totalCost."""

    model: str
    input_tokens: int
    output_tokens: int
    input_cost: float
    output_cost: float
    total_cost: float
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


class SendResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of an agent. The optional fields are present only when they say something."""

    status: Literal["ok"] = "ok"
    task_id: str | None
    trace_id: str
    response: str
    usage: UsageBody
    cost: CostBody
    context_warning: str | UnsetType = UNSET
    skipped_backend: bool | UnsetType = UNSET

    @classmethod
    def of(cls, result: RunResult) -> SendResponse:
        return cls(
            task_id=result.task_id or None,
            trace_id=result.trace_id,
            response=result.text,
            usage=UsageBody.of(result.usage),
            cost=CostBody.of(result.cost),
            context_warning=result.context_warning or UNSET,
            skipped_backend=result.skipped_backend or UNSET,
        )


class TaskResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON value of a structured task; `validation_errors` only when it does not fulfil its schema."""

    status: Literal["ok"] = "ok"
    output: Any
    usage: UsageBody
    cost: CostBody
    validated: bool
    trace_id: str
    validation_errors: Sequence[Mapping[str, str]] | UnsetType = UNSET

    @classmethod
    def of(cls, result: RunResult) -> TaskResponse:
        parsed = result.parsed or ParsedOutput()
        return cls(
            output=parsed.value,
            usage=UsageBody.of(result.usage),
            cost=CostBody.of(result.cost),
            validated=parsed.validated,
            trace_id=result.trace_id,
            validation_errors=parsed.errors or UNSET,
        )


class CompactResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The conversation with its older turns replaced by a summary; without a cost when no model was asked."""

    status: Literal["ok"] = "ok"
    compacted_messages: Sequence[Turn]
    usage: UsageBody
    original_count: int
    compacted_count: int
    cost: CostBody | None
    trace_id: str | None

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


class ReplayResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a replay, and how the run differs from the one it repeats (nulls when that one is gone)."""

    status: Literal["ok"] = "ok"
    trace_id: str
    response: str
    usage: UsageBody
    cost: CostBody
    output: Any = UNSET
    validated: bool | UnsetType = UNSET
    replay_of: str
    overrides: Mapping[str, Any]
    diff: Mapping[str, Any] | None
    summary_text: str | None

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
