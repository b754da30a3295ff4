"""Admit: one short transaction that claims the key, reserves the money, opens the trace and says `agent.start`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings

from apps.agents.delivery.idempotency import Claim, claim_key, drop_claim, release_key
from apps.agents.delivery.outbox import enqueue, held_webhook_row
from apps.agents.domain.conversation import MIN_OUTPUT_TOKENS
from apps.agents.engine.models import Candidate
from apps.agents.engine.plan import Plan, named_tools, risk_of, worst_prompt
from apps.audit.services.recording import record_audit
from apps.governance.domain.prices import Price
from apps.governance.services.prices import price_book
from apps.governance.services.reservations import Reservation, reserve, settle_call
from apps.traces.domain.record import TraceEnd, TraceStart
from apps.traces.services.recording import close_trace, open_trace
from apps.workspaces.services.contents import keep_content
from clasper.core.db import Batch, writer
from clasper.core.errors import (
    BudgetExceeded,
    ClasperError,
    Conflict,
    IdempotencyMismatch,
    InProgress,
    UnpricedModel,
)
from clasper.core.money import NanoUSD, usd
from clasper.core.usage import Usage

GRACE = timedelta(seconds=5)
"""What settling may take after the deadline before the sweeper calls the run dead; at most as long as a run itself."""


@dataclass(frozen=True, slots=True)
class CallGrant:
    """The next model call is paid for: this many output tokens, booked at this price.

    `estimated` says that the price is a guess: the model's own is unknown.
    """

    max_output_tokens: int
    price: Price
    estimated: bool


@dataclass(frozen=True, slots=True)
class Admission:
    """The run may make its first call; or the answer of the earlier run with its key."""

    grant: CallGrant | None = None
    stored: Claim | None = None


async def admit(plan: Plan, decided: list[Admission | ClasperError]) -> Admission:
    """Admits the run. The outcome is also appended to `decided`, for a caller that stops waiting.

    Raises IdempotencyMismatch, InProgress, BudgetExceeded, UnpricedModel (with a trace of the refusal), or Conflict
    when the caller's own trace id is taken.
    """
    request = plan.request
    opening = _opening(plan)
    opened = open_trace(opening)
    wanted = output_limit(plan, plan.model)
    prompt = worst_prompt(plan, added_bytes=0, schema_bytes=0, messages=len(plan.messages))
    target = request.webhook_target
    webhook = (
        [held_webhook_row(target, tenant_id=request.tenant_id, trace_id=request.trace_id, now=request.now)]
        if target
        else []
    )

    if plan.workspace_hash:
        await keep_content(plan.workspace_hash, now=request.now)

    def job(batch: Batch) -> Admission | ClasperError:
        decided.append(decide(batch))
        return decided[-1]

    def decide(batch: Batch) -> Admission | ClasperError:
        if request.idempotency_key:
            claim = claim_key(
                batch,
                tenant_id=request.tenant_id,
                key=request.idempotency_key,
                fingerprint=request.fingerprint,
                trace_id=request.trace_id,
                now=request.now,
            )
            if claim.state != "claimed":
                return _repeated(claim)
        if not opened(batch):
            # Money and keys under this id belong to the other run; only the claim made above is ours.
            drop_claim(batch, tenant_id=request.tenant_id, key=request.idempotency_key)
            return Conflict("The X-Trace-Id is taken by another run.", code="trace_id_in_use")
        granted = reserve_call(batch, plan, plan.model, prompt_tokens=prompt, max_output=wanted)
        if isinstance(granted, ClasperError):
            release_key(batch, tenant_id=request.tenant_id, trace_id=request.trace_id)
            _write_refusal(batch, plan, opening, granted)
            return granted
        record_audit(batch, event_type="agent.start", details=_start_details(plan), **_of_run(plan))
        if request.system_prompt is not None:
            details = {"actor": request.principal.actor, "chars": len(request.system_prompt)}
            record_audit(batch, event_type="prompt.override", details=details, **_of_run(plan))
        if request.replay_of:
            details = {"replay_of": request.replay_of, "changes": request.options.get("replay", {})}
            record_audit(batch, event_type="trace.replay", details=details, **_of_run(plan))
        enqueue(batch, webhook)
        return Admission(granted)

    outcome = await writer.submit(job, key=request.tenant_id)
    if isinstance(outcome, ClasperError):
        raise outcome
    return outcome


def output_limit(plan: Plan, candidate: Candidate) -> int:
    """Most output tokens a call may ask for: what the request wants, within the setting, the credential's limit and the
    room in the window."""
    room = max(MIN_OUTPUT_TOKENS, candidate.window - plan.prompt_estimate)
    wanted, own = plan.request.max_output_tokens, plan.request.principal.max_output_tokens
    bounds = [int(settings.CLASPER_MAX_OUTPUT_TOKENS), room]
    return max(1, min([*bounds, *(bound for bound in (wanted, own) if bound is not None)]))


def reserve_call(
    batch: Batch, plan: Plan, candidate: Candidate, *, prompt_tokens: int, max_output: int
) -> CallGrant | ClasperError:
    """Part of a write: holds the worst case of the next model call; gives what is paid for, or why not.

    When the budget does not hold the whole output, the output is lowered to what it holds, but not below a useful
    minimum.
    """
    request = plan.request
    unknown = candidate.price.status == "unknown"
    price = price_book().ceiling() if unknown else candidate.price
    least = min(MIN_OUTPUT_TOKENS, max_output)
    reservation = reserve(
        batch,
        tenant_id=request.tenant_id,
        run_id=request.trace_id,
        worst_case=price.worst_case(prompt_tokens=prompt_tokens, max_output_tokens=max_output),
        at_least=price.worst_case(prompt_tokens=prompt_tokens, max_output_tokens=least),
        lease_until=lease_of(plan),
        now=request.now,
    )
    if unknown and not reservation.allow_unpriced:
        settle_call(batch, run_id=request.trace_id, cost=NanoUSD(0), more=False, **_of_run(plan))
        return UnpricedModel(details={"model": str(candidate.ref)})
    if not reservation.granted:
        return _over_budget(reservation)
    if reservation.held is None:
        return CallGrant(max_output, candidate.price, unknown)
    affordable = price.affordable_output(budget=reservation.held, prompt_tokens=prompt_tokens)
    return CallGrant(min(max_output, affordable), price, unknown)


def lease_of(plan: Plan) -> Any:
    """When a run that has not settled is certainly dead."""
    timeout = timedelta(milliseconds=settings.CLASPER_RUN_TIMEOUT_MS)
    return plan.request.now + timeout + min(GRACE, timeout)


def _over_budget(reservation: Reservation) -> BudgetExceeded:
    details = {"available": usd(reservation.available)}
    if reservation.hard_limit is not None:
        details["hard_limit"] = usd(reservation.hard_limit)
    return BudgetExceeded(details=details)


def _repeated(claim: Claim) -> Admission | ClasperError:
    if claim.state == "mismatch":
        return IdempotencyMismatch(trace_id=claim.trace_id)
    if claim.state == "in_progress":
        return InProgress(trace_id=claim.trace_id)
    return Admission(stored=claim)


def _opening(plan: Plan) -> TraceStart:
    request = plan.request
    return TraceStart(
        id=request.trace_id,
        id_given=request.trace_id_given,
        tenant_id=request.tenant_id,
        workspace_id=request.workspace_id,
        environment=request.environment,
        agent_id=request.agent_role,
        user_id=request.user_id,
        kind=request.kind,
        provider=plan.model.ref.provider,
        model=plan.model.ref.model,
        workspace_hash=plan.workspace_hash,
        risk=risk_of(plan, named_tools(plan)),
        skills=plan.skill_versions,
        labels=request.labels,
        input=plan.content,
        started_at=request.now,
        lease_until=lease_of(plan),
        replay_of=request.replay_of,
    )


def _of_run(plan: Plan) -> dict[str, Any]:
    request = plan.request
    return {
        "tenant_id": request.tenant_id,
        "trace_id": request.trace_id,
        "actor": request.actor,
        "now": request.now,
    }


def _start_details(plan: Plan) -> dict[str, Any]:
    request = plan.request
    return {
        "user_id": request.user_id,
        "model": str(plan.model.ref),
        "agent_role": request.agent_role,
        "workspace_id": request.workspace_id,
        "environment": request.environment,
        "caller": request.principal.actor,  # not "credential": redaction withholds what stands under such a name
    }


def _write_refusal(batch: Batch, plan: Plan, opening: TraceStart, error: ClasperError) -> None:
    request = plan.request
    error.trace_id = request.trace_id
    closing = TraceEnd(
        id=request.trace_id,
        tenant_id=request.tenant_id,
        status="error",
        ended_at=request.now,
        duration_ms=0,
        provider=opening.provider,
        model=opening.model,
        usage=Usage(),
        cost=NanoUSD(0),
        price_version=plan.model.price.version,
        estimated=False,
        error_code=error.error_code,
        error=error.message,
    )
    batch.flush_rows()
    close_trace(closing)(batch)
    event = "budget.exceeded" if isinstance(error, BudgetExceeded) else "agent.error"
    record_audit(batch, event_type=event, details={"code": error.error_code, **error.details}, **_of_run(plan))
