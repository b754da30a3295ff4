"""Admit: one short transaction that claims the key, reserves the money, opens the trace and audits `agent.start`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apps.agents.delivery.idempotency import Claim, claim_key, drop_claim, release_key
from apps.agents.delivery.outbox import enqueue, held_webhook_row
from apps.agents.engine.call_budget import audit_run, lease_until, reserve_first
from apps.agents.engine.plan import Plan, named_tools, risk_of
from apps.agents.engine.state import CallBudget
from apps.traces.domain.record import TraceEnd, TraceStart
from apps.traces.services.recording import close_trace, open_trace
from clasper.core.db import Batch, writer
from clasper.core.errors import BudgetExceeded, ClasperError, Conflict, IdempotencyMismatch, InProgress
from clasper.core.money import NanoUSD
from clasper.core.usage import Usage


@dataclass(frozen=True, slots=True)
class Admitted:
    """The run may make its first model call."""

    budget: CallBudget


@dataclass(frozen=True, slots=True)
class Repeated:
    """An earlier run with the same Idempotency-Key has the answer."""

    claim: Claim


Admission = Admitted | Repeated


async def admit(plan: Plan, decided: list[Admission | ClasperError]) -> Admission:
    """Admits the run. The outcome is also appended to `decided`, for a caller that stops waiting.

    Raises IdempotencyMismatch, InProgress, BudgetExceeded, UnpricedModel (with a trace of the refusal), or Conflict
    when the caller's own trace id is taken.
    """
    request = plan.request
    tenant_id, trace_id, idempotency = request.scope.tenant_id, request.trace.trace_id, request.idempotency
    start = _trace_start(plan)
    opened = open_trace(start)
    reserve = reserve_first(plan)
    webhook = request.webhook
    held = (
        [] if webhook is None else [held_webhook_row(webhook, tenant_id=tenant_id, trace_id=trace_id, now=request.now)]
    )

    def write(batch: Batch) -> Admission | ClasperError:
        decided.append(decide(batch))
        return decided[-1]

    def decide(batch: Batch) -> Admission | ClasperError:
        if idempotency is not None:
            claim = claim_key(
                batch,
                tenant_id=tenant_id,
                key=idempotency.key,
                fingerprint=idempotency.fingerprint,
                trace_id=trace_id,
                now=request.now,
            )
            if claim.state == "mismatch":
                return IdempotencyMismatch(trace_id=claim.trace_id)
            if claim.state == "in_progress":
                return InProgress(trace_id=claim.trace_id)
            if claim.state == "stored":
                return Repeated(claim)
        if not opened(batch):
            # Money and keys under this id belong to the other run; only the claim made above is ours.
            if idempotency is not None:
                drop_claim(batch, tenant_id=tenant_id, key=idempotency.key)
            return Conflict("The X-Trace-Id is taken by another run.", code="trace_id_in_use")
        budget = reserve(batch)
        if isinstance(budget, ClasperError):
            release_key(batch, tenant_id=tenant_id, trace_id=trace_id)
            _write_refusal(batch, plan, start, budget)
            return budget
        for event_type, details in _start_events(plan):
            audit_run(batch, request, event_type, details, now=request.now)
        enqueue(batch, held)
        return Admitted(budget)

    outcome = await writer.submit(write, key=tenant_id)
    if isinstance(outcome, ClasperError):
        raise outcome
    return outcome


def _trace_start(plan: Plan) -> TraceStart:
    request, scope, trace = plan.request, plan.request.scope, plan.request.trace
    return TraceStart(
        id=trace.trace_id,
        id_given=trace.chosen,
        tenant_id=scope.tenant_id,
        workspace_id=scope.workspace_id,
        environment=scope.environment,
        agent_id=scope.agent_role,
        user_id=scope.user_id,
        kind=request.kind,
        provider=plan.model.ref.provider,
        model=plan.model.ref.model,
        snapshot_hash=plan.snapshot_hash,
        risk=risk_of(plan, named_tools(plan)),
        skills={skill.name: skill.version for skill in plan.skills},
        labels=trace.labels,
        input=plan.content,
        started_at=request.now,
        lease_until=lease_until(request),
        replay_of=request.replay.trace_id if request.replay else "",
    )


def _start_events(plan: Plan) -> list[tuple[str, dict[str, Any]]]:
    """The audit entries of a run that begins."""
    request, scope = plan.request, plan.request.scope
    start = {
        "user_id": scope.user_id,
        "model": str(plan.model.ref),
        "agent_role": scope.agent_role,
        "workspace_id": scope.workspace_id,
        "environment": scope.environment,
        "caller": scope.principal.actor,  # not "credential": redaction withholds the values of such names
    }
    events: list[tuple[str, dict[str, Any]]] = [("agent.start", start)]
    prompt = request.conversation.system_prompt
    if prompt is not None:
        events.append(("prompt.override", {"actor": scope.principal.actor, "chars": len(prompt)}))
    if request.replay is not None:
        changes = {"replay_of": request.replay.trace_id, "changes": dict(request.replay.overrides)}
        events.append(("trace.replay", changes))
    return events


def _write_refusal(batch: Batch, plan: Plan, start: TraceStart, error: ClasperError) -> None:
    request = plan.request
    error.trace_id = start.id
    end = TraceEnd(
        id=start.id,
        tenant_id=start.tenant_id,
        status="error",
        ended_at=request.now,
        duration_ms=0,
        provider=start.provider,
        model=start.model,
        usage=Usage(),
        cost=NanoUSD(0),
        price_version=plan.model.price.version,
        estimated=False,
        error_code=error.error_code,
        error=error.message,
    )
    batch.flush_rows()
    close_trace(end)(batch)
    event = "budget.exceeded" if isinstance(error, BudgetExceeded) else "agent.error"
    audit_run(batch, request, event, {"code": error.error_code, **error.details}, now=request.now)
