"""What the run writes while it runs: each paid call is durable and settled before the next one begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from apps.agents.engine.admit import CallGrant, output_limit, reserve_call
from apps.agents.engine.models import Candidate
from apps.agents.engine.plan import worst_prompt
from apps.agents.engine.state import Run
from apps.audit.services.recording import record_audit
from apps.governance.services.reservations import settle_call
from apps.governance.services.usage import record_usage
from apps.traces.services.recording import add_steps
from clasper.core.clock import utc_now
from clasper.core.db import Batch, Write, writer
from clasper.core.errors import BudgetExceeded, ClasperError, Unavailable
from clasper.core.money import NanoUSD
from clasper.core.usage import Usage


async def checkpoint(run: Run) -> None:
    """Settles the call that was just paid for and writes its step. Raises Unavailable."""
    with _kept_on_failure(run):
        await writer.submit(progress(run, more=True), key=run.request.tenant_id)


async def reserve_next(run: Run, candidate: Candidate) -> None:
    """Writes what happened since the last call and reserves the worst case of the next one to `candidate`.

    Raises BudgetExceeded or UnpricedModel when the budget does not hold it, and Unavailable; the run ends there.
    """
    with _kept_on_failure(run):
        granted = await _reserve_next(run, candidate)
    if isinstance(granted, ClasperError):
        raise granted
    run.grant = granted
    run.estimated = run.estimated or granted.estimated


async def _reserve_next(run: Run, candidate: Candidate) -> CallGrant | ClasperError:
    plan = run.plan
    written = progress(run, more=True)
    prompt = worst_prompt(plan, added_bytes=run.added_bytes, schema_bytes=run.schema_bytes, messages=len(run.messages))
    wanted = output_limit(plan, candidate)

    def job(batch: Batch) -> CallGrant | ClasperError:
        written(batch)
        granted = reserve_call(batch, plan, candidate, prompt_tokens=prompt, max_output=wanted)
        if isinstance(granted, BudgetExceeded):
            record_audit(batch, event_type="budget.exceeded", details=granted.details, **of_run(run))
        return granted

    return await writer.submit(job, key=run.request.tenant_id)


@contextmanager
def _kept_on_failure(run: Run) -> Iterator[None]:
    """Leaves with the run what could not be written of it, so that its settlement writes it.

    Should it have been written all the same and only the answer been lost, the settlement fails at the first step that
    is there already, and the sweeper settles what was recorded.
    """
    cost, usage, notes, steps = run.unsettled_cost, run.unsettled_usage, run.notes, run.steps
    try:
        yield
    except Unavailable:
        run.unsettled_cost += cost
        run.unsettled_usage += usage
        run.notes = [*notes, *run.notes]
        run.steps = [*steps, *run.steps]
        raise


def progress(run: Run, *, more: bool, steps: bool = True) -> Write[None]:
    """A job that settles what is booked and writes the new steps and audit notes; takes them off the run.

    With `more` the run's hold stays as a row for the next call; otherwise it is gone. With `steps` off the caller
    writes the steps itself.
    """
    cost, run.unsettled_cost = NanoUSD(run.unsettled_cost), 0
    usage, run.unsettled_usage = run.unsettled_usage, Usage()
    notes, run.notes = run.notes, []
    common = of_run(run)
    add: Write[None] | None = None
    if steps and run.steps:
        add = add_steps(tenant_id=run.request.tenant_id, trace_id=run.request.trace_id, steps=run.steps)
        run.steps = []

    def job(batch: Batch) -> None:
        settle_call(batch, run_id=run.request.trace_id, cost=cost, more=more, **common)
        if usage.total_tokens or not more:
            requests = 0 if more else 1
            record_usage(
                batch, tenant_id=common["tenant_id"], now=common["now"], usage=usage, cost=cost, requests=requests
            )
        if add is not None:
            add(batch)
        for note in notes:
            record_audit(batch, event_type=note.event_type, details=note.details, **common)

    return job


def of_run(run: Run) -> dict[str, Any]:
    """The arguments every write of a run carries."""
    request = run.request
    return {
        "tenant_id": request.tenant_id,
        "trace_id": request.trace_id,
        "actor": request.actor,
        "now": utc_now(),
    }
