"""Replays against real exchanges: providers answer as they were recorded, nobody else is there, and every step is the
same again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apps.traces.domain.step_diff import step_digests
from apps.traces.services.reading import get_trace
from clasper.core.tenancy import OneTenant
from fakes.llm import Behaviour, raw, reply
from tests.agents.backend import Backend
from tests.agents.hosts import hosts
from tests.agents.ledger import assert_balanced
from tests.agents.replaying import again
from tests.gateways.wire_formats import needs_recordings, recorded
from tests.world import ACME, Server

TOOLS = ("get_temperature", "get_user_country", "final_result", "retrieve_entity_info")

CASES = {
    "openai": ("openai/openai_instructions_with_tool_calls_keep_instructions", ["get_temperature"], []),
    "anthropic": ("anthropic/multiple_parallel_tool_calls", ["retrieve_entity_info"] * 4, []),
    "gemini": ("google/google_tool_output", ["get_user_country", "final_result"], [reply("That is all.")]),
}
"""By provider: the recording of two exchanges, the tools that are called in it, and an end for one that has none."""

pytestmark = needs_recordings


def answers_of(name: str) -> list[Behaviour]:
    """The recorded answers."""
    answers = [recorded(name, index)["response"] for index in range(2)]
    return [raw(json.dumps(answer["json"]).encode()) for answer in answers]


def results(trace_id: str) -> list[Any]:
    """What the run's steps did, by their digests."""
    return step_digests(get_trace(tenants=OneTenant(ACME), trace_id=trace_id))


@pytest.mark.parametrize("provider", CASES)
def test_a_recorded_run_is_the_same_again(
    server: Server, backend: Backend, workspace: Path, settings: Any, provider: str
) -> None:
    name, called, end = CASES[provider]
    answers = [*answers_of(name), *end]
    grants = f"---\nname: family\nmetadata:\n  clasper:\n    tools: [{', '.join(TOOLS)}]\n---\nAsk.\n"
    (workspace / "skills/family").mkdir()
    (workspace / "skills/family/SKILL.md").write_text(grants)
    for tool in TOOLS:
        backend.tools[tool] = lambda arguments: {"known of": arguments}
    with hosts(settings, provider) as found:
        fake = found[provider]
        fake.script(*answers)
        first = server.send("Tell me.").json()["trace_id"]
        assert [step["tool_name"] for step in server.trace(first)["steps"] if step["type"] == "tool_call"] == called
        asked = [exchange.body for exchange in fake.requests]
        calls = len(backend.calls)
        settings.BACKEND_URL = "http://127.0.0.1:9"  # nobody listens there

        fake.script(*answers)
        answer = again(server, first)
        assert [exchange.body for exchange in fake.requests[len(asked) :]] == asked, "it is asked the very same"
    assert results(answer["trace_id"]) == results(first)
    assert answer["diff"]["steps"]["identical"] is True
    assert set(answer["diff"]["summary"]["significantChanges"]) <= {"timing"}
    assert len(backend.calls) == calls, "no tool, no task, no message"
    assert_balanced()
