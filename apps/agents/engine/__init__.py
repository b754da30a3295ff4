"""The one path every run takes: prepare → admit → loop → settle → deliver.

`run` is an async generator of domain events. A stream forwards them, a send collects them. Nothing else in the code
base opens a connection to a model or a tool. Slow or paid I/O never happens inside a transaction, and a cancelled run
is settled before it is gone: a write that was submitted is committed whether or not its run still waits, and whichever
settlement comes first ends the trace. What a crash leaves behind is swept (`delivery.sweeper`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from django.conf import settings

from apps.agents.delivery.idempotency import Claim, open_response
from apps.agents.delivery.outbox import NOT_ACCEPTED, deliver_run, pending_of
from apps.agents.domain.json_output import JsonOutput, Reading, repair_message
from apps.agents.domain.run import RunEvent, RunFinished, RunRequest, RunResult, RunStarted
from apps.agents.engine import tool_calls
from apps.agents.engine.admit import Admission, CallGrant, admit
from apps.agents.engine.model_calls import ask, book_received
from apps.agents.engine.models import default_model
from apps.agents.engine.plan import Plan, prepare
from apps.agents.engine.settle import settle_failure, settle_success
from apps.agents.engine.state import CallLimits, Run
from apps.agents.engine.writes import checkpoint, reserve_next
from apps.traces.domain.record import Status
from clasper.core.clock import utc_now
from clasper.core.db import writer
from clasper.core.errors import BackendFailed, ClasperError, ProviderFailed, RunTimeout
from clasper.gateways.control_plane import control_plane
from clasper.gateways.llm.base import Message

__all__ = ["RunEvent", "default_model", "run"]

logger = logging.getLogger("clasper.engine")

_UNUSABLE = {
    "refusal": ("provider_refused", "The model refused to answer."),
    "content_filter": ("content_filtered", "The provider's safety filter withheld the answer."),
    "length": ("output_truncated", "The answer was cut off at the output limit and is not used."),
    "error": ("provider_error", "The provider ended the answer with an error."),
}


async def run(request: RunRequest) -> AsyncGenerator[RunEvent, None]:
    """Runs the request and yields what happens; the last event is RunFinished.

    Raises a ClasperError, with the run's trace id once there is a trace, when the run ends without an answer. Closing
    the generator, or cancelling its task, cancels the model call at once and settles what it delivered.
    """
    began = asyncio.get_running_loop().time()
    plan = prepare(request)
    admission = await _admit(plan, began)
    if admission.stored is not None:
        yield await _repeat(request, admission.stored)
        return
    assert admission.grant is not None
    state = _begin(plan, admission.grant, began)
    try:
        yield RunStarted(request.trace_id)
        await _contact_backend(state)
        async with aclosing(_answer(state)) as events:
            async for event in events:
                yield event
        result = _result(state)
        owed = await settle_success(state, result)
    except ClasperError as error:
        error.trace_id = request.trace_id
        await settle_failure(state, error, "timeout" if isinstance(error, RunTimeout) else "error")
        raise
    except (asyncio.CancelledError, GeneratorExit):
        await _settle_broken(state, _cancelled(), "cancelled")
        raise
    except Exception:
        logger.exception("a run failed unexpectedly", extra={"trace_id": request.trace_id})
        unexpected = ClasperError(trace_id=request.trace_id)
        await _settle_broken(state, unexpected, "error")
        raise unexpected from None
    if owed:
        await _deliver(request, owed)
    yield RunFinished(request.trace_id, request.answer(result), webhook_pending=request.webhook is not None)


async def _admit(plan: Plan, began: float) -> Admission:
    """Admits the run. One whose caller leaves meanwhile is admitted all the same, and settled before it is gone."""
    decided: list[Admission | ClasperError] = []
    try:
        return await admit(plan, decided)
    except asyncio.CancelledError:
        # The id may be another run's, so only what let this one in is settled.
        await writer.barrier()
        outcome = decided[-1] if decided else None
        if isinstance(outcome, Admission) and outcome.grant is not None:
            await settle_failure(_begin(plan, outcome.grant, began), _cancelled(), "cancelled")
        raise


def _cancelled() -> ClasperError:
    return ClasperError("The caller left before the answer.", code="cancelled")


def _begin(plan: Plan, grant: CallGrant, began: float) -> Run:
    return Run(
        plan=plan,
        began=began,
        deadline=began + settings.CLASPER_RUN_TIMEOUT_MS / 1000,
        grant=grant,
        messages=list(plan.messages),
        limits=CallLimits.of(plan.request),
        task_id=plan.request.task_id,
        estimated=grant.estimated,
    )


async def _contact_backend(run: Run) -> None:
    """Resolves the task and the tools: the first contact with the outside."""
    request = run.request
    if not run.task_id and not request.skip_backend:
        started = asyncio.get_running_loop().time()
        try:
            run.task_id = await control_plane().find_or_create_task(
                run.caller,
                title=request.task_title,
                description=request.task_description,
                metadata=request.task_metadata or {},
                deadline=run.deadline,
            )
        except BackendFailed as error:
            run.add_step("error", "task", status="error", code=error.error_code, started=started, output=error.message)
            raise
    await tool_calls.discover(run)


async def _answer(run: Run) -> AsyncGenerator[RunEvent, None]:
    """The conversation to its answer, read as JSON where that is expected."""
    async with aclosing(_loop(run)) as events:
        async for event in events:
            yield event
    _check_usable(run)
    if run.request.expects is not None:
        run.reading = run.request.expects.read(_text(run))
        if run.reading.faults:
            await _ask_again(run, run.request.expects, run.reading)


async def _ask_again(run: Run, expects: JsonOutput, first: Reading) -> None:
    """Asks once more for an answer that is not as expected. When that gives none, JSON that came first stands."""
    kept = run.completion
    run.say(Message("assistant", _text(run)), Message("user", repair_message(first.faults)))
    try:
        await reserve_next(run, run.candidate)
        async with aclosing(ask(run, ())) as chunks:
            async for _ in chunks:
                pass
        _check_usable(run)
        run.reading = expects.read(_text(run))
        if not run.reading.is_json:
            raise ProviderFailed(
                "The model's answer is not JSON, also not when asked again.",
                code="invalid_output",
                details={"validation_errors": list(run.reading.errors)},
            )
    except ClasperError:
        if not first.is_json:
            raise
        run.reading, run.completion = first, kept


async def _loop(run: Run) -> AsyncGenerator[RunEvent, None]:
    """Model call, tool calls, model call … until there is an answer; the last round is asked without tools."""
    specs = tool_calls.specs(run)
    if run.schema_bytes:
        await reserve_next(run, run.plan.model)
    rounds = settings.CLASPER_TOOL_MAX_ROUNDS
    for left in range(rounds, -1, -1):
        async with aclosing(ask(run, specs if left else ())) as chunks:
            async for chunk in chunks:
                yield chunk
        completion = run.completion
        assert completion is not None
        if not completion.tool_calls:
            return
        if left == 0:
            raise ProviderFailed(f"The model still called tools after {rounds} rounds.", code="tool_rounds_exceeded")
        await checkpoint(run)
        async with aclosing(tool_calls.execute(run, completion)) as events:
            async for event in events:
                yield event
        await reserve_next(run, run.candidate)


def _result(run: Run) -> RunResult:
    return RunResult(
        trace_id=run.request.trace_id,
        task_id=run.task_id,
        text=_text(run),
        usage=run.usage,
        cost=run.total_cost(),
        reading=run.reading,
        context_warning=run.plan.warning,
        skipped_backend=run.request.skip_backend,
    )


def _text(run: Run) -> str:
    assert run.completion is not None
    return run.completion.text


def _check_usable(run: Run) -> None:
    """A refusal, an empty or a cut answer is never used (rulings §3.4)."""
    assert run.completion is not None
    if run.completion.finish in _UNUSABLE:
        code, message = _UNUSABLE[run.completion.finish]
        raise ProviderFailed(message, code=code)
    if not run.completion.text.strip():
        raise ProviderFailed("The model gave an empty answer.", code="empty_answer")


async def _settle_broken(run: Run, error: ClasperError, status: Status) -> None:
    """Settles a run that was torn out of a call: what had arrived is booked by estimate and stands as a step."""
    candidate = run.in_flight
    if candidate is not None:
        text = "".join(run.received)
        paid = book_received(run)
        run.add_step(
            "llm_call",
            candidate.ref.model,
            status=status,
            code=error.error_code,
            started=run.call_began,
            provider=candidate.ref.provider,
            **paid,
            output={"partial": text} if text else None,
        )
    await settle_failure(run, error, status)


async def _deliver(request: RunRequest, owed: list[Any]) -> None:
    try:
        await deliver_run(tenant_id=request.tenant_id, trace_id=request.trace_id, deliveries=owed, now=utc_now())
    except BackendFailed as error:
        error.trace_id = request.trace_id
        raise


async def _repeat(request: RunRequest, stored: Claim) -> RunFinished:
    """The answer of the earlier run with this Idempotency-Key; still 502 while the backend has not taken it."""
    if await pending_of(tenant_id=request.tenant_id, trace_id=stored.trace_id):
        raise BackendFailed(NOT_ACCEPTED, trace_id=stored.trace_id)
    body = open_response(stored.sealed, tenant_id=request.tenant_id, trace_id=stored.trace_id)
    return RunFinished(stored.trace_id, body, replayed=True)
