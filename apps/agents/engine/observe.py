"""An ended run as monitoring sees it: counted, and exported as telemetry where that is wanted."""

from __future__ import annotations

import logging
from dataclasses import replace

from apps.agents.engine.state import Run
from apps.traces.domain.record import Step, TraceEnd
from clasper import metrics, telemetry
from clasper.core.redaction import redact_text

logger = logging.getLogger("clasper.runs")


def observe(run: Run, closing: TraceEnd) -> None:
    """Counts the run and its calls, and has it exported; takes microseconds and does not fail."""
    try:
        _count(run, closing)
        if telemetry.enabled():
            telemetry.export(_facts(run, closing))
    except Exception:
        logger.exception("a run was not counted", extra={"trace_id": closing.id})


def _count(run: Run, closing: TraceEnd) -> None:
    calls, tools = [], []
    for step in run.noted:
        if step.type == "llm_call":
            outcome = "ok" if step.status == "ok" else step.code
            call = metrics.Call(step.provider, outcome, step.prompt_tokens, step.completion_tokens, step.cost)
            calls.append(call)
        elif step.type == "tool_call":
            tools.append(step.status)
    metrics.count_run(
        kind=run.request.kind,
        status=closing.status,
        provider=closing.provider,
        duration_ms=closing.duration_ms,
        calls=calls,
        tools=tools,
    )


def _facts(run: Run, closing: TraceEnd) -> telemetry.RunFacts:
    request = run.request
    return telemetry.RunFacts(
        trace_id=closing.id,
        tenant_id=closing.tenant_id,
        workspace_id=request.workspace_id,
        environment=request.environment,
        role=request.agent_role,
        kind=request.kind,
        status=closing.status,
        code=closing.error_code,
        provider=closing.provider,
        model=closing.model,
        started_at=request.now,
        duration_ms=closing.duration_ms,
        prompt_tokens=closing.usage.prompt_tokens,
        completion_tokens=closing.usage.completion_tokens,
        cost=closing.cost,
        steps=tuple(map(_told, run.noted)),
    )


def _told(step: Step) -> Step:
    """The step as monitoring may know it: models invent names of tools."""
    return replace(step, name=redact_text(step.name)) if step.type == "tool_call" else step
