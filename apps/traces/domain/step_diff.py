"""How the steps of two runs differ: digests of what each did, paired tool calls, the first step that parts them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from apps.traces.domain.views import StepView, TraceDetail
from clasper.core.canonical import canonical_json


def step_digest(step: StepView) -> str:
    """Hex SHA-256 of what the step did: type, name, status, code, input, output; never its time, duration or cost."""
    facts = {
        "type": step.type,
        "name": step.name,
        "status": step.status,
        "code": step.code,
        "input": step.input,
        "output": step.output,
    }
    return hashlib.sha256(_canonical(facts)).hexdigest()


def step_digests(detail: TraceDetail) -> list[str]:
    """The digests of a run's steps, in order; two runs with equal lists did the same."""
    return [step_digest(step) for step in detail.steps]


def tool_calls(base: Sequence[StepView], compare: Sequence[StepView]) -> dict[str, Any]:
    """Calls paired by their place among the calls of the same tool. An `id` is the step's `seq`."""
    old, new = _by_tool(base), _by_tool(compare)
    names = [*old, *(name for name in new if name not in old)]
    pairs = [pair for name in names for pair in zip(old.get(name, ()), new.get(name, ()), strict=False)]
    changed = [change for one, other in pairs if (change := _changed_call(one, other))]
    return {
        "removed": [_call(step) for name in names for step in old.get(name, [])[len(new.get(name, ())) :]],
        "added": [_call(step) for name in names for step in new.get(name, [])[len(old.get(name, ())) :]],
        "changed": changed,
        "unchanged": len(pairs) - len(changed),
        "baseCount": sum(map(len, old.values())),
        "compareCount": sum(map(len, new.values())),
        "removedNames": [name for name in old if name not in new],
        "addedNames": [name for name in new if name not in old],
    }


def _by_tool(steps: Sequence[StepView]) -> dict[str, list[StepView]]:
    calls: dict[str, list[StepView]] = {}
    for step in steps:
        if step.type == "tool_call":
            calls.setdefault(step.name, []).append(step)
    return calls


def _call(step: StepView) -> dict[str, Any]:
    return {"id": step.seq, "name": step.name, "success": step.status == "ok", "durationMs": step.duration_ms}


def _changed_call(old: StepView, new: StepView) -> dict[str, Any] | None:
    """What differs between two calls of a tool; None when they differ in nothing but time."""
    differences = {
        "argumentsChanged": _canonical(old.input) != _canonical(new.input),
        "resultChanged": _canonical(old.output) != _canonical(new.output),
        "successChanged": (old.status == "ok") != (new.status == "ok"),
    }
    if not any(differences.values()):
        return None
    return {
        "name": old.name,
        "baseId": old.seq,
        "compareId": new.seq,
        "differences": {**differences, "durationDelta": new.duration_ms - old.duration_ms},
    }


def steps(base: TraceDetail, compare: TraceDetail) -> dict[str, Any]:
    """Counts of steps, and where the runs part. `structuralDifferences` counts the places whose types differ."""
    old, new = [step.type for step in base.steps], [step.type for step in compare.steps]
    divergence = _first_divergence(base, compare)
    return {
        "baseStepCount": len(old),
        "compareStepCount": len(new),
        "llmCallCountDelta": new.count("llm_call") - old.count("llm_call"),
        "toolCallCountDelta": new.count("tool_call") - old.count("tool_call"),
        "errorCountDelta": new.count("error") - old.count("error"),
        "structuralDifferences": sum(a != b for a, b in zip(old, new, strict=False)) + abs(len(old) - len(new)),
        "identical": divergence is None,
        "firstDivergence": divergence,
    }


def _first_divergence(base: TraceDetail, compare: TraceDetail) -> dict[str, Any] | None:
    """The first step, counted from 0, that is not the same in both; a step that one run lacks differs in its type."""
    old, new = step_digests(base), step_digests(compare)
    shared = min(len(old), len(new))
    index = next((i for i in range(shared) if old[i] != new[i]), shared)
    if index == len(old) == len(new):
        return None
    one = base.steps[index] if index < len(old) else None
    other = compare.steps[index] if index < len(new) else None
    return {
        "index": index,
        "base": _step_facts(one),
        "compare": _step_facts(other),
        "reason": _reason(one, other) if one and other else "type",
    }


def _step_facts(step: StepView | None) -> dict[str, Any] | None:
    if step is None:
        return None
    return {"type": step.type, "name": step.name, "status": step.status, "code": step.code or None}


def _reason(old: StepView, new: StepView) -> str:
    """The first thing that two different steps differ in; the name of a model call is its model."""
    if old.type != new.type:
        return "type"
    if old.type != "llm_call" and old.name != new.name:
        return "name"
    if (old.status, old.code) != (new.status, new.code):
        return "status"
    if _canonical(old.input) != _canonical(new.input):
        return "arguments"
    return "result" if _canonical(old.output) != _canonical(new.output) else "model"


def outline(detail: TraceDetail) -> list[tuple[str, str, str | None]]:
    """What the steps came to, without the tool calls and the models' names."""
    return [(step.type, step.status, step.code) for step in detail.steps if step.type != "tool_call"]


def _canonical(value: Any) -> bytes:
    """One byte sequence for one JSON value, also for what RFC 8785 refuses: huge integers, lone surrogates."""
    try:
        return canonical_json(value)
    except ValueError:
        return json.dumps(value, sort_keys=True).encode()
