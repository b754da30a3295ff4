"""The one path every run takes: prepare → admit → loop → settle → deliver.

`run` is an async generator of events. A stream forwards them, a send collects them. Nothing else in the code base opens
a connection to a model or a tool. Slow or paid I/O never happens inside a transaction, and a cancelled run is settled
before it ends: a write that was submitted is committed whether or not its run still waits, and whichever settlement
comes first ends the trace. What a crash leaves behind is swept (`apps.agents.delivery.sweeper`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from django.conf import settings

from apps.agents.delivery.idempotency import Claim, open_result
from apps.agents.delivery.outbox import NOT_ACCEPTED, deliver_run, pending_of
from apps.agents.domain.delivery import PendingDelivery
from apps.agents.domain.json_output import OutputSpec, ParsedOutput, repair_message
from apps.agents.domain.run import CONVERSATIONS, RunEvent, RunFinished, RunRequest, RunResult, RunStarted
from apps.agents.engine import tool_calls
from apps.agents.engine.admit import Admission, Admitted, Repeated, admit
from apps.agents.engine.call_budget import checkpoint, reserve_next
from apps.agents.engine.model_calls import ask, book_received
from apps.agents.engine.plan import Plan, prepare
from apps.agents.engine.settle import settle_failure, settle_success
from apps.agents.engine.state import CallBudget, CallParams, Run
from apps.traces.domain.record import Status
from apps.workspaces.domain.release import Release
from clasper.core.clock import utc_now
from clasper.core.db import writer
from clasper.core.errors import BackendFailed, ClasperError, IdempotencyMismatch, ProviderFailed, RunTimeout
from clasper.gateways.control_plane import control_plane
from clasper.gateways.llm.base import Message

__all__ = ["RunEvent", "run"]

logger = logging.getLogger("clasper.engine")

_UNUSABLE = {
    "refusal": ("provider_refused", "The model refused to answer."),
    "content_filter": ("content_filtered", "The provider's safety filter withheld the answer."),
    "length": ("output_truncated", "The answer was cut off at the output limit and is not used."),
    "error": ("provider_error", "The provider ended the answer with an error."),
}


async def run(request: RunRequest, release: Release | None) -> AsyncGenerator[RunEvent, None]:
    """Runs the request with what the release contains and yields what happens; the last event is RunFinished.

    Raises a ClasperError, with the run's trace id once there is a trace, when the run ends without an answer. Closing
    the generator, or cancelling its task, cancels the model call at once and settles what it delivered.
    """
    began = asyncio.get_running_loop().time()
    plan = prepare(request, release)
    admission = await _admit(plan, began)
    if isinstance(admission, Repeated):
        yield await _repeat(request, admission.claim)
        return
    state = _begin(plan, admission.budget, began)
    try:
        yield RunStarted(state.trace_id)
        await _contact_backend(state)
        async with aclosing(_answer(state)) as events:
            async for event in events:
                yield event
        result = _result(state)
        deliveries = await settle_success(state, result)
    except ClasperError as error:
        error.trace_id = state.trace_id
        await settle_failure(state, error, "timeout" if isinstance(error, RunTimeout) else "error")
        raise
    except (asyncio.CancelledError, GeneratorExit):
        await _settle_interrupted(state, _cancelled(), "cancelled")
        raise
    except Exception:
        logger.exception("a run failed unexpectedly", extra={"trace_id": state.trace_id})
        unexpected = ClasperError(trace_id=state.trace_id)
        await _settle_interrupted(state, unexpected, "error")
        raise unexpected from None
    if deliveries:
        await _deliver(state, deliveries)
    yield RunFinished(result, webhook_pending=request.webhook is not None)


async def _admit(plan: Plan, began: float) -> Admission:
    """Admits the run. If its caller leaves while it is being admitted, it is settled before it ends."""
    decided: list[Admission | ClasperError] = []
    try:
        return await admit(plan, decided)
    except asyncio.CancelledError:
        # The id may be another run's, so only what let this one in is settled.
        await writer.barrier()
        outcome = decided[-1] if decided else None
        if isinstance(outcome, Admitted):
            await settle_failure(_begin(plan, outcome.budget, began), _cancelled(), "cancelled")
        raise


def _cancelled() -> ClasperError:
    return ClasperError("The caller left before the answer.", code="cancelled")


def _begin(plan: Plan, budget: CallBudget, began: float) -> Run:
    request = plan.request
    return Run(
        plan=plan,
        request=request,
        tenant_id=request.scope.tenant_id,
        trace_id=request.trace.trace_id,
        began=began,
        deadline=began + settings.CLASPER_RUN_TIMEOUT_MS / 1000,
        budget=budget,
        messages=list(plan.messages),
        params=CallParams.of(request),
        task_id=request.backend.task_id,
        estimated=budget.estimated,
    )


async def _contact_backend(run: Run) -> None:
    """Resolves the task and the tools: the first contact with the outside."""
    backend = run.request.backend
    if not run.task_id and not backend.skip:
        started = asyncio.get_running_loop().time()
        try:
            run.task_id = await control_plane().find_or_create_task(
                run.caller,
                title=backend.task_title,
                description=backend.task_description,
                metadata=backend.task_metadata,
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
    output = run.request.options.output
    if output is not None:
        run.parsed = output.parse(run.completion.text)
        if run.parsed.errors:
            await _repair(run, output, run.parsed)


async def _repair(run: Run, output: OutputSpec, first: ParsedOutput) -> None:
    """Asks again for an answer that is not as expected. If that fails, JSON that came first is kept."""
    kept = run.completion
    run.append_messages(Message("assistant", kept.text), Message("user", repair_message(first.problems)))
    try:
        await reserve_next(run, run.candidate)
        async with aclosing(ask(run, ())) as chunks:
            async for _ in chunks:
                pass
        _check_usable(run)
        run.parsed = output.parse(run.completion.text)
        if not run.parsed.is_json:
            raise ProviderFailed(
                "The model's answer is not JSON, even after it was asked again.",
                code="invalid_output",
                details={"validation_errors": list(run.parsed.errors)},
            )
    except ClasperError:
        if not first.is_json:
            raise
        run.parsed, run.completion = first, kept


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
        kind=run.request.kind,
        trace_id=run.trace_id,
        task_id=run.task_id,
        text=run.completion.text,
        usage=run.usage,
        cost=run.total_cost(),
        parsed=run.parsed,
        context_warning=run.plan.warning,
        skipped_backend=run.request.backend.skip,
    )


def _check_usable(run: Run) -> None:
    """A refusal, an empty or a cut answer is never used."""
    if run.completion.finish in _UNUSABLE:
        code, message = _UNUSABLE[run.completion.finish]
        raise ProviderFailed(message, code=code)
    if not run.completion.text.strip():
        raise ProviderFailed("The model returned an empty answer.", code="empty_answer")


async def _settle_interrupted(run: Run, error: ClasperError, status: Status) -> None:
    """Settles a run that was torn out of a call: what had arrived is booked by estimate and becomes a step."""
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


async def _deliver(run: Run, deliveries: Sequence[PendingDelivery]) -> None:
    try:
        await deliver_run(tenant_id=run.tenant_id, trace_id=run.trace_id, deliveries=deliveries, now=utc_now())
    except BackendFailed as error:
        error.trace_id = run.trace_id
        raise


async def _repeat(request: RunRequest, claim: Claim) -> RunFinished:
    """The result of the earlier run with this Idempotency-Key; still 502 while the backend has not accepted it.

    Raises IdempotencyMismatch when that was another kind of run: its answer would not fit this endpoint's response.
    """
    tenant_id = request.scope.tenant_id
    if await pending_of(tenant_id=tenant_id, trace_id=claim.trace_id):
        raise BackendFailed(NOT_ACCEPTED, trace_id=claim.trace_id)
    result = open_result(claim.sealed, tenant_id=tenant_id, trace_id=claim.trace_id)
    if result.kind != request.kind and not {result.kind, request.kind} <= CONVERSATIONS:
        raise IdempotencyMismatch(trace_id=claim.trace_id)
    return RunFinished(result, repeated=True)
