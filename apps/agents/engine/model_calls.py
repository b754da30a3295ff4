"""One call to the model: attempts, backoff, fallback, and what every attempt used.

The only layer that retries. A stream is retried only until its first token: what was shown cannot be taken back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from django.conf import settings

from apps.agents.domain.run import TextChunk
from apps.agents.engine.call_budget import reserve_next
from apps.agents.engine.models import TIERS, Candidate
from apps.agents.engine.provider_slots import CallNotPermitted, ProviderSlot
from apps.agents.engine.state import NO_ANSWER, CallParams, Run
from clasper.core.errors import ClasperError, ContextTooLong, ProviderFailed, RunTimeout, Unavailable, UnknownModel
from clasper.core.usage import Usage
from clasper.gateways.llm.base import FailureKind, ModelCall, ProviderError, TextDelta, ToolSpec
from clasper.gateways.llm.failures import failure as failure_of
from clasper.gateways.llm.relax import relaxed_call

MAX_ADJUSTMENTS = 3
"""Temperature, output limit and schema: more cannot be changed in a call."""

_SICK: frozenset[FailureKind] = frozenset({"unavailable", "timeout", "connection", "bad_response"})
"""Failures of a provider in trouble; all other kinds are responses of one that works."""


async def ask(run: Run, tools: tuple[ToolSpec, ...]) -> AsyncGenerator[TextChunk, None]:
    """Asks the model, or its fallback, until one answers; the answer is `run.completion`.

    A run stays with the model that answered it last: its next call is reserved at that model's price, and signed
    thoughts go back to the provider that signed them. Yields the text as it arrives when the run streams. Raises
    RunTimeout, UnknownModel, ContextTooLong, Unavailable or ProviderFailed when no model answered, BudgetExceeded when
    the fallback costs too much.
    """
    failure: ProviderError | None = None
    candidates = run.plan.candidates
    remaining = candidates[candidates.index(run.candidate) :]
    for candidate in remaining:
        if failure is not None:
            await reserve_next(run, candidate)
            run.params = CallParams.of(run.request)
        attempt = 0
        again = True
        while again:
            attempt += 1
            run.call_began = started = asyncio.get_running_loop().time()
            try:
                async with aclosing(_exchange(run, candidate, tools, is_last=candidate is remaining[-1])) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except ProviderError as error:
                failure = error
                _note_failure(run, candidate, error, attempt, started)
                again = not run.received and (_adjust(run, error, attempt) or await _pause(run, error, attempt))
            else:
                _note_answer(run, candidate, attempt, started)
                return
        assert failure is not None
        if run.received or not failure.fallback or not run.seconds_left():
            break
    assert failure is not None
    raise to_public_error(run, failure)


async def _exchange(
    run: Run, candidate: Candidate, tools: tuple[ToolSpec, ...], *, is_last: bool
) -> AsyncGenerator[TextChunk, None]:
    """One attempt. What has been received is kept in `run`, so that a cancelled run can still be settled."""
    # Waiting for a busy provider must leave the next model some time.
    patience = run.seconds_left() if is_last else run.seconds_left() / 2
    run.in_flight, run.completion = candidate, NO_ANSWER
    run.received.clear()
    provider = candidate.provider
    try:
        async with ProviderSlot(provider=provider.base_url, tenant_id=run.tenant_id, timeout=patience) as slot:
            run.call = call = _call(run, candidate, tools)
            try:
                if not run.request.streams:
                    run.completion = await provider.complete(call)
                else:
                    async with aclosing(provider.stream(call)) as events:
                        async for event in events:
                            if isinstance(event, TextDelta):
                                run.received.append(event.text)
                                yield TextChunk(event.text)
                            else:
                                run.completion = event
            except ProviderError as error:
                if error.kind in _SICK:
                    slot.record_failure()
                else:
                    slot.record_success()
                raise
            slot.record_success()
    except CallNotPermitted as error:
        raise failure_of(error.kind, provider.name, retry_after=error.retry_after) from None


def _call(run: Run, candidate: Candidate, tools: tuple[ToolSpec, ...]) -> ModelCall:
    params = run.params
    paid_for = run.budget.max_output_tokens
    return ModelCall(
        model=candidate.ref.model,
        messages=tuple(run.messages),
        tools=tools,
        max_output_tokens=paid_for if params.max_output_tokens is None else min(paid_for, params.max_output_tokens),
        temperature=params.temperature,
        schema=params.schema,
        timeout=run.seconds_left(),
    )


def _note_answer(run: Run, candidate: Candidate, attempt: int, started: float) -> None:
    completion = run.completion
    usage = completion.usage
    if not completion.usage_reported:
        written = completion.text + "".join(call.arguments for call in completion.tool_calls)
        usage, run.estimated = run.estimated_usage(written), True
    cost = run.book(usage, run.budget.price.cost(usage))
    run.model_used, run.in_flight = candidate, None
    run.received.clear()
    calls = [{"name": call.name, "arguments": call.arguments} for call in completion.tool_calls]
    run.add_step(
        "llm_call",
        candidate.ref.model,
        status="ok",
        code=completion.finish,
        started=started,
        provider=candidate.ref.provider,
        attempt=attempt,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.output,
        cost=cost,
        output={"text": completion.text, "tool_calls": calls} if calls else None,
    )


def _note_failure(run: Run, candidate: Candidate, error: ProviderError, attempt: int, started: float) -> None:
    """A failed attempt is a step; if text had arrived, it was paid for and is booked by estimate."""
    paid = book_received(run, error.usage)
    run.in_flight = None
    run.add_step(
        "llm_call",
        candidate.ref.model,
        status="error",
        code=error.kind,
        started=started,
        provider=candidate.ref.provider,
        attempt=attempt,
        **paid,
        output={"error": str(error), "detail": error.detail} if error.detail else {"error": str(error)},
    )


def book_received(run: Run, reported: Usage | None = None) -> dict[str, int]:
    """Books what a broken or cancelled call used: what its provider `reported`, or by estimate what arrived so far.

    Nothing when nothing arrived. Returns the tokens and the cost as the fields of the step.
    """
    if run.in_flight is None or not (run.received or reported):
        return {}
    guess = run.estimated_usage("".join(run.received))
    usage = guess if reported is None else replace(reported, output=max(reported.output, guess.output))
    run.estimated = run.estimated or usage != reported
    cost = run.book(usage, run.budget.price.cost(usage))
    return {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.output, "cost": cost}


def _adjust(run: Run, error: ProviderError, attempt: int) -> bool:
    """Changes what the provider refused, if its refusal says what that is; the next attempt follows at once."""
    if attempt > MAX_ADJUSTMENTS or run.call is None:
        return False
    call = relaxed_call(run.call, error)
    if call is None:
        return False
    run.params = CallParams(call.temperature, call.max_output_tokens, call.schema)
    return True


async def _pause(run: Run, error: ProviderError, attempt: int) -> bool:
    """Waits before the next attempt; returns False when there is no attempt or no time left."""
    if not error.retryable or attempt >= settings.CLASPER_RETRY_ATTEMPTS:
        return False
    delay = min(settings.CLASPER_RETRY_DELAY_MS * 2 ** (attempt - 1), settings.CLASPER_RETRY_MAX_DELAY_MS) / 1000
    delay *= 1 + random.uniform(-settings.CLASPER_RETRY_JITTER, settings.CLASPER_RETRY_JITTER)  # noqa: S311  spreads load
    delay = max(delay, error.retry_after or 0.0)
    if delay >= run.seconds_left():
        return False
    await asyncio.sleep(delay)
    return True


def to_public_error(run: Run, failure: ProviderError) -> ClasperError:
    """The error that the caller gets when no model answered."""
    details = {"reason": failure.kind, "status": failure.status}
    if failure.kind == "timeout":
        return RunTimeout("The model did not answer in time.", details=details)
    if failure.kind == "context_too_long":
        return ContextTooLong(details=details)
    if failure.kind == "unknown_model" and run.request.options.model and run.request.options.model not in TIERS:
        return UnknownModel(f"The provider does not know the model {run.request.options.model!r}.", details=details)
    if failure.kind == "circuit_open":
        return Unavailable(str(failure), code="provider_circuit_open", details=details, retry_after=failure.retry_after)
    if failure.kind == "at_capacity":
        return Unavailable(str(failure), code="at_capacity", details=details, retry_after=failure.retry_after)
    return ProviderFailed(str(failure), details=details)
