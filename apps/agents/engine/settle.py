"""Settle: one short transaction that ends the run: steps, redacted content, spend, sums, audit and deliveries."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from apps.agents.delivery.idempotency import release_key, seal_result, store_result
from apps.agents.delivery.outbox import enqueue, release_webhook, sealed_row
from apps.agents.domain.delivery import PendingDelivery
from apps.agents.domain.responses import CostBody, UsageBody
from apps.agents.domain.run import RunResult
from apps.agents.engine.call_budget import audit_run, settle, unwritten_of
from apps.agents.engine.observe import observe
from apps.agents.engine.plan import risk_of
from apps.agents.engine.state import Run
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
    """Ends a run that has an answer; returns the backend writes that the run now delivers itself.

    Raises Unavailable when the sweeper has already ended the run, because its answer came after its lease.
    """
    tenant_id, trace_id, now = run.tenant_id, run.trace_id, utc_now()
    deliveries = _backend_writes(run, result)
    rows = [sealed_row(delivery, tenant_id=tenant_id, trace_id=trace_id, now=now) for delivery in deliveries]
    sealed = seal_result(result, tenant_id=tenant_id) if run.request.idempotency else b""
    end = _trace_end(run, status="success", output=result.text)
    details = {
        "duration_ms": end.duration_ms,
        "input_tokens": run.usage.prompt_tokens,
        "output_tokens": run.usage.output,
        "cost": usd(end.cost),
        "tool_calls": run.tool_calls,
    }
    if not await _end(run, end, "agent.complete", details, rows, sealed):
        raise Unavailable("The run outlived its lease and was ended by the sweeper.", trace_id=trace_id)
    return deliveries


async def settle_failure(run: Run, error: ClasperError, status: Status) -> None:
    """Ends a run without an answer; its webhook reports the error, its Idempotency-Key is free again."""
    end = _trace_end(run, status=status, error=error)
    details = {"code": error.error_code, "error": error.message, "duration_ms": end.duration_ms}
    await _end(run, end, "agent.error", details)


async def _end(
    run: Run,
    end: TraceEnd,
    event_type: str,
    details: dict[str, Any],
    rows: Sequence[tuple[Any, ...]] = (),
    sealed: bytes = b"",
) -> bool:
    """Writes the end of the run; False, and nothing written, when the sweeper has already ended it."""
    request, now = run.request, end.ended_at
    target = request.webhook
    report = _report(run, end) if target is not None else {}
    close = close_trace(end)

    with unwritten_of(run) as unwritten:

        def write(batch: Batch) -> bool:
            if not close(batch):
                return False
            settle(batch, request, unwritten, now=now, keep_hold=False)
            audit_run(batch, request, event_type, details, now=now)
            enqueue(batch, rows)
            if target is not None:
                release_webhook(batch, target, report, tenant_id=end.tenant_id, trace_id=end.id, now=now)
            if sealed:
                store_result(batch, tenant_id=end.tenant_id, trace_id=end.id, sealed=sealed)
            elif request.idempotency:
                release_key(batch, tenant_id=end.tenant_id, trace_id=end.id)
            return True

        ended = await writer.submit(write, key=end.tenant_id)
    if ended:
        observe(run, end)
        _log(run, end)
    return ended


def _trace_end(run: Run, *, status: Status, output: str | None = None, error: ClasperError | None = None) -> TraceEnd:
    candidate = run.candidate
    return TraceEnd(
        id=run.trace_id,
        tenant_id=run.tenant_id,
        status=status,
        ended_at=utc_now(),
        duration_ms=run.elapsed(run.began),
        provider=candidate.ref.provider,
        model=candidate.ref.model,
        usage=run.usage,
        cost=run.total_cost().total,
        price_version=run.budget.price.version,
        estimated=run.estimated,
        risk=risk_of(run.plan, tuple(run.tools)),
        steps=tuple(run.unwritten.steps),
        output=output,
        error_code=error.error_code if error else "",
        error=error.message if error else "",
        task_id=run.task_id,
        tools=_offered(run),
    )


def _offered(run: Run) -> bytes:
    """The tools as the model saw them, so that the run can be repeated."""
    return msgspec.json.encode(list(run.tools.values())) if run.tools else b""


def _backend_writes(run: Run, result: RunResult) -> list[PendingDelivery]:
    """The message, and the plan document of a kickoff, each with a key derived from the run."""
    if run.request.backend.skip:
        return []
    common = {"caller": msgspec.to_builtins(run.caller), "task_id": run.task_id}
    message = {**common, "content": result.text, "key": f"clasper:message:{run.trace_id}"}
    deliveries = [PendingDelivery(new_id(), "message", 1, message)]
    if kickoff := run.request.conversation.kickoff:
        document = {
            **common,
            "title": kickoff.plan_title,
            "content": kickoff.document(result.text),
            "doc_type": "plan",
            "key": f"clasper:document:{run.trace_id}",
        }
        deliveries.append(PendingDelivery(new_id(), "document", 2, document))
    return deliveries


def _report(run: Run, end: TraceEnd) -> dict[str, Any]:
    """What the caller's webhook reports."""
    scope = run.request.scope
    return build_payload(
        now=end.ended_at,
        trace_id=run.trace_id,
        task_id=run.task_id or None,
        user_id=scope.user_id,
        role=scope.agent_role,
        response=end.output or "",
        usage=msgspec.to_builtins(UsageBody.of(run.usage)),
        cost=msgspec.to_builtins(CostBody.of(run.total_cost())),
        error=end.error,
        code=end.error_code,
    )


def _log(run: Run, end: TraceEnd) -> None:
    if not logger.isEnabledFor(logging.INFO):
        return
    logger.info(
        "run finished",
        extra={
            "trace_id": end.id,
            "tenant_id": end.tenant_id,
            "agent": run.request.scope.agent_role,
            "kind": run.request.kind,
            "status": end.status,
            "code": end.error_code,
            "model": end.model,
            "duration_ms": end.duration_ms,
            "cost": usd(end.cost),
        },
    )
