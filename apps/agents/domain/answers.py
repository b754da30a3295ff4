"""The response bodies of structured tasks, compaction and replays, as the API reference spells them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from apps.agents.domain.compaction import summary_turn
from apps.agents.domain.requests import Turn
from apps.agents.domain.run import RunResult, usage_json
from clasper.core.usage import Usage


def task_answer(result: RunResult) -> dict[str, Any]:
    """The response body of `POST /llm-task`; `validation_errors` only when the output does not fulfil its schema."""
    reading = result.reading
    assert reading is not None
    body: dict[str, Any] = {
        "status": "ok",
        "output": reading.value,
        "usage": usage_json(result.usage),
        "cost": result.cost.as_json(),
        "validated": reading.validated,
        "trace_id": result.trace_id,
    }
    if reading.errors:
        body["validation_errors"] = list(reading.errors)
    return body


def compact_answer(result: RunResult, *, original_count: int, recent: Sequence[Turn]) -> dict[str, Any]:
    """The response body of `POST /compact`: the summary as a system turn, then the recent turns as they were."""
    messages = [summary_turn(result.text), *msgspec.to_builtins(recent)]
    return {
        "status": "ok",
        "compacted_messages": messages,
        "usage": usage_json(result.usage),
        "original_count": original_count,
        "compacted_count": len(messages),
        "cost": result.cost.as_json(),
        "trace_id": result.trace_id,
    }


def replay_answer(result: RunResult) -> dict[str, Any]:
    """The part of a replay's response body that the run itself knows; the comparison is added to it."""
    body: dict[str, Any] = {
        "status": "ok",
        "trace_id": result.trace_id,
        "response": result.text,
        "usage": usage_json(result.usage),
        "cost": result.cost.as_json(),
    }
    if result.reading is not None:
        body |= {"output": result.reading.value, "validated": result.reading.validated}
    return body


def unchanged_answer(turns: Sequence[Turn]) -> dict[str, Any]:
    """The response body of `POST /compact` when nothing is older than what is kept: no model was asked."""
    return {
        "status": "ok",
        "compacted_messages": msgspec.to_builtins(turns),
        "usage": usage_json(Usage()),
        "original_count": len(turns),
        "compacted_count": len(turns),
        "cost": None,
        "trace_id": None,
    }
