"""Settle: one short transaction that ends the run: steps, redacted content, spend, sums, audit, and what it owes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from apps.agents.delivery.idempotency import release_key, seal_response, store_response
from apps.agents.delivery.outbox import enqueue, release_webhook, sealed_row
from apps.agents.domain.conversation import plan_document
from apps.agents.domain.delivery import PendingDelivery
from apps.agents.domain.run import RunResult, usage_json
from apps.agents.engine.observe import observe
from apps.agents.engine.plan import risk_of
from apps.agents.engine.state import Run
from apps.agents.engine.writes import of_run, progress
from apps.audit.services.recording import record_audit
from apps.traces.domain.record import Status, TraceEnd
from apps.traces.services.recording import close_trace
from clasper.core.clock import utc_now
from clasper.core.db import Batch, writer
from clasper.core.errors import ClasperError, Unavailable
from clasper.core.ids import new_id
from clasper.core.money import usd
from clasper.gateways.webhooks import build_payload

logger = logging.getLogger("clasper.runs")


async def settle_success(run: Run, result: RunResult) -> list[PendingDelivery]:
    """Ends a run that has an answer; gives the backend writes that the run now delivers itself.

    Raises Unavailable when the sweeper has ended the run meanwhile: its answer came after its lease.
    """
    request = run.request
    owed = _backend_writes(run, result)
    now = utc_now()
    rows = [sealed_row(each, tenant_id=request.tenant_id, trace_id=request.trace_id, now=now) for each in owed]
    sealed = b""
    if request.idempotency_key:
        sealed = seal_response(request.answer(result), tenant_id=request.tenant_id, trace_id=request.trace_id)
    closing = _closing(run, status="success", output=result.text)
    details = {
        "duration_ms": closing.duration_ms,
        "input_tokens": run.usage.prompt_tokens,
        "output_tokens": run.usage.output,
        "cost": usd(closing.cost),
        "tool_calls": run.tool_calls,
    }
    report = _report(run, response=result.text)
    if not await _end(run, closing, "agent.complete", details, report, rows, sealed):
        raise Unavailable("The run outlived its lease and was ended by the sweeper.", trace_id=request.trace_id)
    _tell(run, closing)
    return owed


async def settle_failure(run: Run, error: ClasperError, status: Status) -> None:
    """Ends a run without an answer; its webhook is told, its Idempotency-Key is free again."""
    closing = _closing(run, status=status, error=error)
    details = {"code": error.error_code, "error": error.message, "duration_ms": closing.duration_ms}
    report = _report(run, error=error.message, code=error.error_code)
    if await _end(run, closing, "agent.error", details, report):
        _tell(run, closing)


async def _end(
    run: Run,
    closing: TraceEnd,
    event: str,
    details: dict[str, Any],
    report: dict[str, Any],
    rows: Sequence[tuple[Any, ...]] = (),
    sealed: bytes = b"",
) -> bool:
    common = of_run(run)
    target = run.request.webhook_target
    close = close_trace(closing)
    settle = progress(run, more=False, steps=False)

    def job(batch: Batch) -> bool:
        if not close(batch):
            return False
        settle(batch)
        record_audit(batch, event_type=event, details=details, **common)
        enqueue(batch, rows)
        if target is not None:
            release_webhook(batch, target, report, tenant_id=closing.tenant_id, trace_id=closing.id, now=common["now"])
        if sealed:
            store_response(batch, tenant_id=closing.tenant_id, trace_id=closing.id, sealed=sealed)
        elif run.request.idempotency_key:
            release_key(batch, tenant_id=closing.tenant_id, trace_id=closing.id)
        return True

    return await writer.submit(job, key=closing.tenant_id)


def _closing(run: Run, *, status: Status, output: str | None = None, error: ClasperError | None = None) -> TraceEnd:
    request, candidate = run.request, run.candidate
    steps, run.steps = tuple(run.steps), []
    risk = risk_of(run.plan, tuple(run.tools))
    cost = run.total_cost()
    return TraceEnd(
        id=request.trace_id,
        tenant_id=request.tenant_id,
        status=status,
        ended_at=utc_now(),
        duration_ms=run.elapsed(run.began),
        provider=candidate.ref.provider,
        model=candidate.ref.model,
        usage=run.usage,
        cost=cost.total,
        price_version=run.grant.price.version,
        estimated=run.estimated,
        risk=risk,
        steps=steps,
        output=output,
        error_code=error.error_code if error else "",
        error=error.message if error else "",
        task_id=run.task_id,
        tools=_offered(run),
    )


def _offered(run: Run) -> bytes:
    """The tools as the model saw them, so that the run can be repeated."""
    if not run.tools:
        return b""
    return msgspec.json.encode(
        [
            {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
            for tool in run.tools.values()
        ]
    )


def _backend_writes(run: Run, result: RunResult) -> list[PendingDelivery]:
    """The message, and the plan document of a kickoff, each with a key derived from the run (rulings §3.8)."""
    request = run.request
    if request.skip_backend:
        return []
    caller = {
        "user_id": request.user_id,
        "agent_role": request.agent_role,
        "tenant_id": request.tenant_id,
        "workspace_id": request.workspace_id,
        "trace_id": request.trace_id,
    }
    common = {"caller": caller, "task_id": run.task_id}
    message = {**common, "content": result.text, "key": f"clasper:message:{request.trace_id}"}
    owed = [PendingDelivery(new_id(), "message", 1, message)]
    if request.kickoff_plan:
        document = {
            **common,
            "title": request.plan_title,
            "content": plan_document(note=request.kickoff_note, reply=result.text),
            "doc_type": "plan",
            "key": f"clasper:document:{request.trace_id}",
        }
        owed.append(PendingDelivery(new_id(), "document", 2, document))
    return owed


def _report(run: Run, *, response: str = "", error: str = "", code: str = "") -> dict[str, Any]:
    """What the caller's webhook is told."""
    request = run.request
    return build_payload(
        now=utc_now(),
        trace_id=request.trace_id,
        task_id=run.task_id or None,
        user_id=request.user_id,
        role=request.agent_role,
        response=response,
        usage=usage_json(run.usage),
        cost=run.total_cost().as_json(),
        error=error,
        code=code,
    )


def _tell(run: Run, closing: TraceEnd) -> None:
    observe(run, closing)
    if not logger.isEnabledFor(logging.INFO):
        return
    logger.info(
        "run finished",
        extra={
            "trace_id": closing.id,
            "tenant_id": closing.tenant_id,
            "agent": run.request.agent_role,
            "kind": run.request.kind,
            "status": closing.status,
            "code": closing.error_code,
            "model": closing.model,
            "duration_ms": closing.duration_ms,
            "cost": usd(closing.cost),
        },
    )
