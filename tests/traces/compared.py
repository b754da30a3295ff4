"""Runs to be compared."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from apps.traces.domain.views import StepView, TraceCost, TraceDetail, TraceRisk, TraceUsage
from tests.world import ACME

START = datetime(2026, 2, 10, 12, 0, tzinfo=UTC)


def step(seq: int, kind: str, name: str, **facts: Any) -> StepView:
    name_field = {"llm_call": "model", "tool_call": "tool_name"}.get(kind, "label")
    standing: dict[str, Any] = {"status": "ok", "code": None, "started_at": START, "duration_ms": 5, "output": None}
    facts["arguments"] = facts.pop("input", None)
    return StepView(seq=seq, type=kind, **{name_field: name, **standing, **facts})


def searches(number: int, first: int = 2, **facts: Any) -> list[StepView]:
    return [step(first + n, "tool_call", "search", input={"n": n}, output=[n], **facts) for n in range(number)]


def detail(trace_id: str = "trace-id-1", *, steps: list[StepView] | None = None, **facts: Any) -> TraceDetail:
    """A run that ended well; `facts` are fields of the trace or of its usage."""
    tokens = {"prompt_tokens": 1200, "completion_tokens": 300}
    usage = {name: facts.pop(name, value) for name, value in tokens.items()}
    own: dict[str, Any] = {
        "id": trace_id,
        "tenant_id": ACME,
        "workspace_id": "default",
        "environment": "prod",
        "agent_id": "support",
        "user_id": "u-1",
        "kind": "send",
        "status": "success",
        "error_code": None,
        "started_at": START,
        "ended_at": START + timedelta(seconds=2),
        "duration_ms": 2000,
        "provider": "openai",
        "model": "gpt-4",
        "total_tokens": sum(usage.values()),
        "cost": 50_000_000,
        "estimated": False,
        "risk_score": 10,
        "risk_level": "low",
        "labels": {},
        "error": None,
        "snapshot_hash": "sha256:0",
        "redactions": 0,
        "task_id": None,
        "message_id": None,
        "document_id": None,
        "annotations": (),
        "replay_of": None,
        "storage_mode": "full",
        "skill_versions": {"summarize": "1.0.0"},
        "input": {"message": "Hello"},
        "output": {"response": "Hi"},
        "steps": tuple(steps if steps is not None else [step(1, "llm_call", facts.get("model", "gpt-4"))]),
        **facts,
    }
    return TraceDetail(
        **own,
        usage=TraceUsage(
            **usage, total_tokens=own["total_tokens"], cached_tokens=0, cache_write_tokens=0, reasoning_tokens=0
        ),
        priced=TraceCost(model=own["model"], total_cost=own["cost"], price_version="test"),
        risk=TraceRisk(score=10, level="low", factors={}),
    )


SAMPLE = (
    detail("trace-id-1", steps=[step(1, "llm_call", "gpt-4"), *searches(3)]),
    detail(
        "trace-id-2",
        model="gpt-4o-mini",
        cost=10_000_000,
        skill_versions={"summarize": "1.1.0"},
        steps=[step(1, "llm_call", "gpt-4o-mini"), *searches(2)],
    ),
)


def within(sample: Any, actual: Any) -> bool:
    """The sample's keys, at every depth, with exactly its values."""
    if isinstance(sample, dict):
        return isinstance(actual, dict) and all(key in actual and within(sample[key], actual[key]) for key in sample)
    return bool(sample == actual and isinstance(actual, type(sample)))
