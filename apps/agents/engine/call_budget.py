"""Paying for model calls: what the next one may cost, reserving it, and settling what the last one cost.

Every paid call is committed, with its steps and audit entries, before the next one begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings

from apps.agents.domain.run import RunRequest
from apps.agents.engine.models import Candidate
from apps.agents.engine.plan import Plan
from apps.agents.engine.state import CallBudget, Run, Unwritten
from apps.audit.services.recording import record_audit
from apps.governance.services.prices import price_book
from apps.governance.services.reservations import reserve, settle_call
from apps.governance.services.usage import record_usage
from apps.traces.services.recording import add_steps
from clasper.core.clock import utc_now
from clasper.core.db import Batch, Write, writer
from clasper.core.errors import BudgetExceeded, ClasperError, Unavailable, UnpricedModel
from clasper.core.money import NanoUSD, usd

GRACE = timedelta(seconds=5)
"""What settling may take after the deadline before the sweeper calls the run dead; at most as long as a run itself."""

MESSAGE_OVERHEAD_TOKENS = 16
"""Tokens a provider adds around one message; the published counting recipes say 3 to 8."""

MIN_OUTPUT_TOKENS = 64
"""A call that may answer with less than this is of no use: the budget refuses it."""


def reserve_first(plan: Plan) -> Write[CallBudget | ClasperError]:
    """A write that reserves the worst case of the run's first model call, and returns what is paid for or why not."""
    request = plan.request
    prompt = _prompt_ceiling(plan, added_bytes=0, schema_bytes=0, messages=len(plan.messages))
    wanted = _output_limit(plan, plan.model)
    return lambda batch: _reserve(batch, request, plan.model, prompt_tokens=prompt, max_output=wanted)


async def reserve_next(run: Run, candidate: Candidate) -> None:
    """Writes what happened since the last call and reserves the worst case of the next one to `candidate`.

    Raises BudgetExceeded or UnpricedModel when the budget does not cover it, and Unavailable; the run ends there.
    """
    plan = run.plan
    prompt = _prompt_ceiling(
        plan, added_bytes=run.added_bytes, schema_bytes=run.schema_bytes, messages=len(run.messages)
    )
    wanted = _output_limit(plan, candidate)
    with unwritten_of(run) as unwritten:
        written = write_progress(run.request, unwritten)

        def write(batch: Batch) -> CallBudget | ClasperError:
            written(batch)
            budget = _reserve(batch, run.request, candidate, prompt_tokens=prompt, max_output=wanted)
            if isinstance(budget, BudgetExceeded):
                audit_run(batch, run.request, "budget.exceeded", budget.details, now=utc_now())
            return budget

        budget = await writer.submit(write, key=run.tenant_id)
    if isinstance(budget, ClasperError):
        raise budget
    run.budget = budget
    run.estimated = run.estimated or budget.estimated


async def checkpoint(run: Run) -> None:
    """Settles the call that was just paid for and writes its step. Raises Unavailable."""
    with unwritten_of(run) as unwritten:
        await writer.submit(write_progress(run.request, unwritten), key=run.tenant_id)


@contextmanager
def unwritten_of(run: Run) -> Iterator[Unwritten]:
    """What is to be written of the run; it stays with the run when the write fails, and its settlement writes it then.

    Should it have been written although the database's answer was lost, the settlement fails at the first step that is
    already there, and the sweeper settles what was recorded.
    """
    taken = run.take_unwritten()
    try:
        yield taken
    except Unavailable:
        run.unwritten = taken + run.unwritten
        raise


def write_progress(request: RunRequest, unwritten: Unwritten) -> Write[None]:
    """A write that settles the calls of a run that continues, with their steps and audit entries."""
    tenant_id, trace_id, now = request.scope.tenant_id, request.trace.trace_id, utc_now()
    add = add_steps(tenant_id=tenant_id, trace_id=trace_id, steps=unwritten.steps) if unwritten.steps else None

    def write(batch: Batch) -> None:
        settle(batch, request, unwritten, now=now, keep_hold=True)
        if add is not None:
            add(batch)

    return write


def settle(batch: Batch, request: RunRequest, unwritten: Unwritten, *, now: datetime, keep_hold: bool) -> None:
    """Part of a write: books the calls' cost and usage and frees what was reserved for them; adds the audit entries.

    With `keep_hold` the run's hold stays as a row for the next call; otherwise the run has ended and its row goes.
    """
    scope, trace_id = request.scope, request.trace.trace_id
    cost = NanoUSD(unwritten.cost)
    settle_call(
        batch,
        tenant_id=scope.tenant_id,
        trace_id=trace_id,
        cost=cost,
        now=now,
        actor=scope.actor,
        keep_hold=keep_hold,
    )
    if unwritten.usage.total_tokens or not keep_hold:
        requests = 0 if keep_hold else 1
        record_usage(batch, tenant_id=scope.tenant_id, now=now, usage=unwritten.usage, cost=cost, requests=requests)
    for event_type, details in unwritten.audit_entries:
        audit_run(batch, request, event_type, details, now=now)


def audit_run(batch: Batch, request: RunRequest, event_type: str, details: Mapping[str, Any], *, now: datetime) -> None:
    """Part of a write: an audit entry about the run, by its agent."""
    record_audit(
        batch,
        tenant_id=request.scope.tenant_id,
        event_type=event_type,
        actor=request.scope.actor,
        now=now,
        trace_id=request.trace.trace_id,
        details=details,
    )


def lease_until(request: RunRequest) -> datetime:
    """When a run that has not settled is certainly dead."""
    timeout = timedelta(milliseconds=settings.CLASPER_RUN_TIMEOUT_MS)
    return request.now + timeout + min(GRACE, timeout)


def _output_limit(plan: Plan, candidate: Candidate) -> int:
    """Most output tokens a call may ask for: what the request wants, within the setting, the credential's limit and the
    room in the window."""
    room = max(MIN_OUTPUT_TOKENS, candidate.window - plan.prompt_estimate)
    wanted, allowed = plan.request.options.max_output_tokens, plan.request.scope.principal.max_output_tokens
    limits = (settings.CLASPER_MAX_OUTPUT_TOKENS, room, wanted, allowed)
    return max(1, min(int(limit) for limit in limits if limit is not None))


def _prompt_ceiling(plan: Plan, *, added_bytes: int, schema_bytes: int, messages: int) -> int:
    """Most tokens the prompt of a call can cost; `added_bytes` are what models and tools added since the start.

    A byte-level tokenizer never makes more tokens than bytes, so whatever callers and tools wrote counts one token per
    byte. The workspace is the operator's prose, for which real tokenizers need less than a third of its bytes; JSON
    schemas need less than half.
    """
    own, schemas = -(-plan.workspace_bytes // 3), -(-schema_bytes // 2)
    return own + schemas + plan.foreign_bytes + added_bytes + messages * MESSAGE_OVERHEAD_TOKENS


def _reserve(
    batch: Batch, request: RunRequest, candidate: Candidate, *, prompt_tokens: int, max_output: int
) -> CallBudget | ClasperError:
    """Reserves the worst case of the next model call; returns what is paid for, or why not.

    When the budget does not cover the whole output, the output is lowered to what it covers, but not below a useful
    minimum.
    """
    unknown = candidate.price.status == "unknown"
    price = price_book().ceiling() if unknown else candidate.price
    least = min(MIN_OUTPUT_TOKENS, max_output)
    reservation = reserve(
        batch,
        tenant_id=request.scope.tenant_id,
        trace_id=request.trace.trace_id,
        worst_case=price.worst_case(prompt_tokens=prompt_tokens, max_output_tokens=max_output),
        at_least=price.worst_case(prompt_tokens=prompt_tokens, max_output_tokens=least),
        lease_until=lease_until(request),
        now=request.now,
    )
    if unknown and not reservation.allow_unpriced:
        settle_call(
            batch,
            tenant_id=request.scope.tenant_id,
            trace_id=request.trace.trace_id,
            cost=NanoUSD(0),
            now=request.now,
            actor=request.scope.actor,
            keep_hold=False,
        )
        return UnpricedModel(details={"model": str(candidate.ref)})
    if not reservation.granted:
        details = {"available": usd(reservation.available)}
        if reservation.hard_limit is not None:
            details["hard_limit"] = usd(reservation.hard_limit)
        return BudgetExceeded(details=details)
    if reservation.held is None:
        return CallBudget(max_output, candidate.price, unknown)
    affordable = price.affordable_output(budget=reservation.held, prompt_tokens=prompt_tokens)
    return CallBudget(min(max_output, affordable), price, unknown)
