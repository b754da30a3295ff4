"""The tools of a run: what is offered, and how the model's calls are decided, executed, traced and audited.

Whatever goes wrong with a call becomes an answer to the model; it does not end the run.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from django.conf import settings

from apps.agents.domain.replay import UNRECORDED, RecordedCall
from apps.agents.domain.run import ToolFinished, ToolStarted
from apps.agents.domain.tools import ToolDecision, decide_tool, parse_arguments
from apps.agents.engine.plan import current_skills
from apps.agents.engine.state import Run
from clasper.core.errors import BackendFailed
from clasper.core.redaction import redact
from clasper.gateways.control_plane import Tool, control_plane
from clasper.gateways.llm.base import Completion, Message, ToolCall, ToolSpec


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one call ended (ok, error, denied, cancelled); `content` is what the model sees."""

    status: str
    content: str
    arguments: Any
    result: Any
    reason: str = ""
    skill: str = ""
    duration_ms: int = 0


async def discover(run: Run) -> None:
    """Asks the control plane for its tools, if a skill of the run grants any, and keeps those the run may use."""
    if not any(skill.tools for skill in run.plan.skills):
        return
    available = await _available(run)
    names = {tool.name for tool in available}
    run.tools = {tool.name: tool for tool in available if _decide(run, tool.name, names).allowed}
    run.schema_bytes = sum(
        len(msgspec.json.encode(tool.parameters)) + len(tool.description) + len(tool.name)
        for tool in run.tools.values()
    )


def _decide(run: Run, name: str, offered: Iterable[str]) -> ToolDecision:
    """Whether the run may use a tool. A replay that calls tools has the skills of
    the past; the current ones must grant the tool too."""
    plan, principal = run.plan, run.request.scope.principal
    decision = decide_tool(name, skills=plan.skills, principal=principal, offered=offered)
    if decision.allowed and run.request.runs_live_tools:
        return decide_tool(name, skills=current_skills(run.request), principal=principal, offered=offered)
    return decision


async def _available(run: Run) -> Sequence[Tool]:
    """The control plane's tools, or those of the recording. Without its tools an agent still answers; the trace says
    what it had to do without."""
    if (recording := run.request.recording) is not None:
        return [Tool(**tool) for tool in recording.tools]
    started = asyncio.get_running_loop().time()
    try:
        return await control_plane().list_tools(run.caller, deadline=run.deadline)
    except BackendFailed as error:
        run.add_step("error", "tools", status="error", code="backend_error", started=started, output=error.message)
        return ()


def specs(run: Run) -> tuple[ToolSpec, ...]:
    """The run's tools as the model sees them."""
    return tuple(ToolSpec(tool.name, tool.description, tool.parameters) for tool in run.tools.values())


async def execute(run: Run, completion: Completion) -> AsyncGenerator[ToolStarted | ToolFinished, None]:
    """Runs the calls of an answer, a few at a time, and appends the answer and the results to the conversation."""
    slots = asyncio.Semaphore(max(1, settings.CLASPER_TOOL_PARALLEL))
    calls = completion.tool_calls
    for call in calls:
        yield ToolStarted(call.name)
    started = asyncio.get_running_loop().time()
    tasks = [asyncio.ensure_future(_execute(run, call, slots)) for call in calls]
    waiting = list(zip(calls, tasks, strict=True))
    try:
        while waiting:
            call, task = waiting[0]
            outcome = await task
            waiting.pop(0)
            _record(run, call.name, outcome, started)
            yield ToolFinished(call.name, outcome.status, outcome.duration_ms)
    finally:
        await _abandon(run, waiting, started)
    said = Message("assistant", completion.text, tool_calls=completion.tool_calls, extra=completion.extra)
    outcomes = [task.result() for task in tasks]
    results = [
        Message("tool", outcome.content, tool_call_id=call.id, failed=outcome.status != "ok")
        for call, outcome in zip(calls, outcomes, strict=True)
    ]
    run.append_messages(said, *results)


async def _abandon(run: Run, waiting: list[tuple[ToolCall, asyncio.Task[Outcome]]], started: float) -> None:
    """Ends the calls of a run that is cancelled. All are recorded, because they may have taken effect."""
    for _, task in waiting:
        task.cancel()
    await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)
    for call, task in waiting:
        cut_off = task.cancelled() or task.exception() is not None
        reason = "The run ended before the tool answered."
        outcome = Outcome("cancelled", "", call.arguments, None, reason) if cut_off else task.result()
        _record(run, call.name, outcome, started)


async def _execute(run: Run, call: ToolCall, slots: asyncio.Semaphore) -> Outcome:
    decision = _decide(run, call.name, run.tools)
    parsed = parse_arguments(call.arguments)
    if not decision.allowed:
        return _refused("denied", decision.reason, parsed.value, decision.skill)
    if parsed.error:
        return _refused("error", parsed.error, call.arguments, decision.skill)
    if (recording := run.request.recording) is not None:
        known = recording.answer(call.name, redact(parsed.value))
        return _recorded(known, parsed.value, decision.skill)
    async with slots:
        started = asyncio.get_running_loop().time()
        outcome = await control_plane().call_tool(
            run.caller,
            call.name,
            parsed.value,
            idempotency_key=_key(run, call),
            timeout=min(settings.CLASPER_TOOL_TIMEOUT_MS / 1000, run.seconds_left()),
            max_bytes=settings.CLASPER_TOOL_RESULT_BYTES,
        )
        duration = run.elapsed(started)
    if not outcome.ok:
        content = msgspec.json.encode({"error": outcome.error}).decode()
        return Outcome("error", content, parsed.value, None, outcome.error, decision.skill, duration)
    content = msgspec.json.encode(outcome.result).decode()
    return Outcome("ok", content, parsed.value, outcome.result, skill=decision.skill, duration_ms=duration)


def _recorded(known: RecordedCall | None, arguments: Any, skill: str) -> Outcome:
    """A call as it ended in the run that is repeated; one that was not made then is an error."""
    if known is None:
        return _refused("error", UNRECORDED, arguments, skill)
    if known.status == "ok":
        return Outcome("ok", msgspec.json.encode(known.output).decode(), arguments, known.output, skill=skill)
    reason = known.output.get("error", "") if isinstance(known.output, dict) else ""
    return _refused("error", str(reason), arguments, skill)


def _refused(status: str, reason: str, arguments: Any, skill: str) -> Outcome:
    return Outcome(status, msgspec.json.encode({"error": reason}).decode(), arguments, None, reason, skill)


def _record(run: Run, name: str, outcome: Outcome, started: float) -> None:
    run.tool_calls += 1
    run.add_step(
        "tool_call",
        name,
        status=outcome.status,
        started=started,
        code=outcome.reason[:64] if outcome.status == "denied" else "",
        duration_ms=outcome.duration_ms,
        input=outcome.arguments,
        output={"error": outcome.reason} if outcome.reason else outcome.result,
    )
    reason = {"reason": outcome.reason} if outcome.reason else {}
    if outcome.status == "denied":
        run.add_audit_entry("tool.denied", {"tool": name, **reason})
        return
    facts = {"status": outcome.status, "duration_ms": outcome.duration_ms, "skill": outcome.skill}
    run.add_audit_entry("tool.call", {"tool": name, **facts, **reason})


def _key(run: Run, call: ToolCall) -> str:
    """The same call of the same run is one call for the control plane, however often it is sent."""
    position = f"{run.trace_id}\n{len(run.messages)}\n{call.id}\n{call.name}\n{call.arguments}"
    return f"clasper:tool:{hashlib.sha256(position.encode('utf-8', 'surrogatepass')).hexdigest()}"
