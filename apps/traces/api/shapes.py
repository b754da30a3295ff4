"""How a run is shown over HTTP: the row of a list, the whole trace, a step; the API reference's keys, then ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apps.traces.domain.views import AnnotationView, StepView, TraceDetail, TracePage, TraceSummary
from clasper.core.clock import iso
from clasper.core.money import usd


def summary_json(trace: TraceSummary) -> dict[str, Any]:
    """One row of the list: the reference's keys, then ours."""
    return {
        "id": trace.id,
        "tenant_id": trace.tenant_id,
        "agent_id": trace.agent_id,
        "status": trace.status,
        "start_time": iso(trace.started_at),
        "end_time": iso(trace.ended_at) if trace.ended_at else None,
        "duration_ms": trace.duration_ms,
        "total_tokens": trace.prompt_tokens + trace.completion_tokens,
        "total_cost": usd(trace.cost),
        "labels": dict(trace.labels),
        "workspace_id": trace.workspace_id,
        "environment": trace.environment,
        "user_id": trace.user_id,
        "kind": trace.kind,
        "provider": trace.provider,
        "model": trace.model,
        "error_code": trace.error_code or None,
        "risk_score": trace.risk_score,
        "risk_level": trace.risk_level,
        "estimated": trace.estimated,
    }


def detail_json(trace: TraceDetail) -> dict[str, Any]:
    """The whole trace: the reference's keys, then ours."""
    summary = trace.summary
    row = summary_json(summary)
    return {
        **row,
        "workspace_hash": trace.workspace_hash,
        "skill_versions": dict(trace.skill_versions),
        "task_id": trace.task_id or None,
        "document_id": trace.document_id or None,
        "message_id": trace.message_id or None,
        "steps": [step_json(step) for step in trace.steps],
        "usage": {
            "prompt_tokens": summary.prompt_tokens,
            "completion_tokens": summary.completion_tokens,
            "total_tokens": summary.prompt_tokens + summary.completion_tokens,
            "cached_tokens": trace.cached_tokens,
            "cache_write_tokens": trace.cache_write_tokens,
            "reasoning_tokens": trace.reasoning_tokens,
        },
        "cost": {
            "model": summary.model,
            "totalCost": usd(summary.cost),
            "currency": "USD",
            "priceVersion": trace.price_version,
        },
        "error": trace.error or None,
        "risk": {"score": summary.risk_score, "level": summary.risk_level, "factors": dict(trace.risk_factors)},
        "redactions": trace.redactions,
        "storage_mode": trace.storage_mode,
        "replay_of": trace.replay_of or None,
        "annotations": [annotation_json(note) for note in trace.annotations],
        "input": trace.input,
        "output": trace.output,
    }


def annotation_json(note: AnnotationView) -> dict[str, Any]:
    """A note on a run."""
    return {
        "id": note.id,
        "traceId": note.trace_id,
        "key": note.key,
        "value": note.value,
        "createdAt": iso(note.created_at),
        "createdBy": note.created_by,
    }


def page_json(page: TracePage, rows: Sequence[Any]) -> dict[str, Any]:
    """A page of any list of runs, with its `rows` as that list shows them."""
    return {
        "traces": rows,
        "total": page.total,
        "total_is_exact": page.total_is_exact,
        "next_cursor": page.next_cursor or None,
    }


def step_json(step: StepView) -> dict[str, Any]:
    """A step in the reference's flat shape: a tool call and its result are one record."""
    common = {
        "seq": step.seq,
        "type": step.type,
        "status": step.status,
        "code": step.code or None,
        "duration_ms": step.duration_ms,
        "timestamp": iso(step.started_at),
    }
    if step.type == "llm_call":
        return {
            **common,
            "model": step.name,
            "provider": step.provider,
            "attempt": step.attempt,
            "prompt_tokens": step.prompt_tokens,
            "completion_tokens": step.completion_tokens,
            "cost": usd(step.cost),
            "output": step.output,
        }
    if step.type == "tool_call":
        permitted = step.status != "denied"
        return {
            **common,
            "tool_name": step.name,
            "input": step.input,
            "output": step.output,
            "permitted": permitted,
            "success": step.status == "ok",
        }
    return {**common, "name": step.name, "output": step.output}
