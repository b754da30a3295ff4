"""What the tests of every wire share: hand-written cases, recorded exchanges, and how an answer is read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from clasper.gateways.llm.base import Completion, Message, ModelCall, TextDelta
from clasper.gateways.llm.exchange import HttpProvider

FIXTURES = Path(__file__).parents[2] / "fixtures" / "llm"
RECORDINGS = Path(os.environ.get("CLASPER_RECORDINGS") or Path(__file__).parents[2].parent / "shared" / "recordings")

needs_recordings = pytest.mark.skipif(
    not RECORDINGS.is_dir(), reason="no recorded exchanges: set CLASPER_RECORDINGS to their folder"
)

CALL = ModelCall(model="m", messages=(Message("user", "Hi"),), max_output_tokens=100, timeout=5)


def cases(name: str) -> list[Any]:
    """The cases of a fixture file, each under its name."""
    return [pytest.param(case, id=case["name"]) for case in json.loads((FIXTURES / name).read_text())]


def recorded(name: str, index: int) -> dict[str, Any]:
    """A recorded exchange: `folder/file`, and its place there."""
    found: dict[str, Any] = json.loads((RECORDINGS / f"{name}.json").read_text())[index]
    return found


def facts(completion: Completion, **more: Any) -> dict[str, Any]:
    """A completion as the fixtures spell it, with what one wire says besides."""
    usage = completion.usage
    return {
        "text": completion.text,
        "tool_calls": [[call.id, call.name, call.arguments] for call in completion.tool_calls],
        "finish": completion.finish,
        "usage": [usage.input, usage.cached, usage.cache_write, usage.output, usage.reasoning],
        "usage_reported": completion.usage_reported,
        **more,
    }


async def streamed(provider: HttpProvider, call: ModelCall = CALL) -> tuple[list[str], Completion]:
    """The deltas of a stream, and its completion."""
    events = [event async for event in provider.stream(call)]
    last = events.pop()
    assert isinstance(last, Completion)
    return [event.text for event in events if isinstance(event, TextDelta)], last
