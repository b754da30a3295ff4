"""What a replay may change, what it must not, and a replay of a replay."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from apps.traces.models import Trace
from apps.workspaces.services import load_workspace
from fakes.llm import FakeProvider, reply, tool_calls
from tests.agents.backend import Backend
from tests.agents.replaying import ORDER, again, ask_for_order, refused, told
from tests.world import ACME, Server, tenant_key

PIRATE = "You are a pirate."


def asked_last(openai: FakeProvider) -> dict[str, Any]:
    return openai.requests[-1].body


def overrides(server: Server, trace_id: str) -> list[dict[str, Any]]:
    """The audit entries that say that a run had another prompt."""
    return [entry for entry in server.audit(trace_id=trace_id) if entry["event_type"] == "prompt.override"]


@pytest.fixture
def task(server: Server, openai: FakeProvider) -> str:
    """A structured task whose own metadata means nothing to a run."""
    openai.default = reply('{"city": "Rome"}')
    metadata = {"system_prompt": 7, "kickoff_plan": True}
    answer = server.post("/llm-task", {"prompt": "Which city?", "tenant_id": ACME, "metadata": metadata})
    assert answer.status_code == 200, answer.text
    trace_id: str = answer.json()["trace_id"]
    return trace_id


# --- Prompts ----------------------------------------------------------------------------------------------------------


def test_a_replay_of_a_replay_repeats_its_changes(server: Server, openai: FakeProvider) -> None:
    openai.default = reply("Fine.")
    original = server.send().json()["trace_id"]
    first = again(server, original, prompt=PIRATE, temperature=0.3, max_tokens=50)
    changed = asked_last(openai)
    assert changed["messages"][0]["content"] == PIRATE
    assert first["overrides"] == {
        "temperature": 0.3,
        "max_tokens": 50,
        "system_prompt_chars": len(PIRATE),
        "tools": "recorded",
    }
    for _ in range(2):
        first = again(server, first["trace_id"])
        assert asked_last(openai) == changed
        assert first["overrides"] == {"tools": "recorded"}
        assert len(overrides(server, first["trace_id"])) == 1
    assert told(server, first["trace_id"])["original_request"]["metadata"]["system_prompt"] == PIRATE
    refused(server, first["trace_id"], 403, "permission_denied", key=tenant_key(ACME, "agents:run,traces:write"))


def test_a_replay_of_a_replay_has_the_time_of_the_first_run(
    server: Server, openai: FakeProvider, now: datetime
) -> None:
    openai.default = reply("Fine.")
    trace_id = server.send().json()["trace_id"]
    Trace.objects.filter(id=trace_id).update(started_at=now)
    for _ in range(3):
        trace_id = again(server, trace_id)["trace_id"]
        assert "Tuesday, February 10, 2026" in asked_last(openai)["messages"][0]["content"]


def test_another_prompt_is_stored_redacted(server: Server, openai: FakeProvider, task: str) -> None:
    private = "mara.lindqvist@example.com"
    openai.default = reply('{"city": "Rome"}')
    for original in (server.send().json()["trace_id"], task):
        answer = again(server, original, system_prompt=f"Write to {private}.")
        assert private in asked_last(openai)["messages"][0]["content"]
        assert private not in str(server.trace(answer["trace_id"]))


def test_another_prompt_of_a_task_leaves_it_a_task(
    server: Server, backend: Backend, openai: FakeProvider, task: str
) -> None:
    backend.tools["orders:lookup"] = lambda arguments: {"status": "shipped"}
    plain = openai.requests[-1].body
    refused(server, task, 403, "permission_denied", key=tenant_key(ACME, "agents:run,traces:write"), prompt=PIRATE)
    answer = again(server, task, prompt=PIRATE, tools="live")
    changed = asked_last(openai)
    assert changed == {**plain, "messages": [{"role": "system", "content": PIRATE}, *plain["messages"][1:]]}
    assert answer["output"] == {"city": "Rome"}
    assert not server.trace(answer["trace_id"])["workspace_hash"]
    assert len(overrides(server, answer["trace_id"])) == 1
    repeated = again(server, answer["trace_id"])
    assert asked_last(openai) == changed
    assert len(overrides(server, repeated["trace_id"])) == 1


def test_a_task_is_repeated_without_heeding_its_metadata(server: Server, openai: FakeProvider, task: str) -> None:
    first = asked_last(openai)
    answer = again(server, task, key=tenant_key(ACME, "agents:run,traces:write"))
    assert asked_last(openai) == first
    assert overrides(server, answer["trace_id"]) == []


# --- Tools ------------------------------------------------------------------------------------------------------------


def revoke_orders(workspace: Path) -> None:
    skill = workspace / "skills/orders/SKILL.md"
    skill.write_text(skill.read_text().replace("[orders:lookup]", "[]"))
    load_workspace(fresh=True)


def executed(backend: Backend) -> list[str]:
    return [call.route for call in backend.calls if call.route.startswith("POST /api/tools/")]


def test_a_live_replay_has_no_tool_whose_grant_is_gone(
    server: Server, backend: Backend, openai: FakeProvider, workspace: Path
) -> None:
    backend.tools["orders:lookup"] = lambda arguments: {"status": "shipped"}
    original = ask_for_order(server, openai)
    revoke_orders(workspace)
    openai.script(tool_calls(ORDER), reply("I may not."))
    answer = again(server, original, tools="live")
    assert executed(backend) == ["POST /api/tools/orders:lookup"]
    assert "tools" not in openai.requests[2].body
    (denied,) = [e for e in server.audit(trace_id=answer["trace_id"]) if e["event_type"] == "tool.denied"]
    assert denied["details"]["reason"] == "Not in skill permissions"


def test_a_grant_that_goes_during_a_live_replay_is_gone(
    server: Server, backend: Backend, openai: FakeProvider, workspace: Path
) -> None:
    backend.tools["orders:lookup"] = lambda arguments: revoke_orders(workspace) or {"status": "shipped"}
    original = ask_for_order(server, openai)
    skill = workspace / "skills/orders/SKILL.md"
    skill.write_text(skill.read_text().replace("[]", "[orders:lookup]"))
    load_workspace(fresh=True)
    openai.script(tool_calls(ORDER), tool_calls(ORDER), reply("I may not."))
    steps = server.trace(again(server, original, tools="live")["trace_id"])["steps"]
    assert [step["status"] for step in steps if step["type"] == "tool_call"] == ["ok", "denied"]


def test_a_recorded_replay_is_no_matter_of_todays_grants(server: Server, openai: FakeProvider, workspace: Path) -> None:
    original = ask_for_order(server, openai)
    revoke_orders(workspace)
    openai.script(tool_calls(ORDER), reply("It was shipped."))
    assert again(server, original)["diff"]["steps"]["identical"] is True


@pytest.mark.parametrize("told_again", ["mara.lindqvist@example.com", "[EMAIL]"])
def test_a_recorded_call_is_found_though_its_arguments_are_redacted(
    told_again: str, server: Server, backend: Backend, openai: FakeProvider
) -> None:
    backend.tools["orders:lookup"] = lambda arguments: {"status": "shipped"}
    arguments = '{"order_id": "ORD-1002", "email": "%s"}'
    openai.script(tool_calls(("orders_lookup", arguments % "mara.lindqvist@example.com")), reply("It was shipped."))
    original = server.send("Where is it?").json()["trace_id"]
    openai.script(tool_calls(("orders_lookup", arguments % told_again)), reply("It was shipped."))
    assert again(server, original)["diff"]["steps"]["identical"] is True
    assert "shipped" in asked_last(openai)["messages"][-1]["content"]
