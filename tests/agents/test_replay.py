"""Replays over HTTP: what a run was asked, the same run again, and the difference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from channels.db import database_sync_to_async

from apps.traces.models import Trace, TracePayload
from apps.traces.services.retention import set_policy
from apps.workspaces.models import Snapshot
from apps.workspaces.services import load_workspace
from clasper.core.clock import utc_now
from fakes.llm import Exchange, FakeProvider, error, reply, tool_calls
from tests.agents.backend import Backend
from tests.agents.ledger import assert_balanced
from tests.agents.replaying import ORDER, again, ask_for_order, refused, told
from tests.world import ACME, GLOBEX, Server, tenant_key


@pytest.fixture
def original(server: Server, openai: FakeProvider) -> str:
    """A run of two rounds with a tool of the embedded control plane."""
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    return ask_for_order(server, openai, messages=turns)


def test_the_context_of_a_replay(server: Server, original: str, workspace: Path) -> None:
    found = told(server, original)
    assert found["trace_id"] == original
    assert found["original_request"]["message"] == "Where is ORD-1002?"
    assert [turn["content"] for turn in found["original_request"]["messages"]] == ["Hi", "Hello."]
    assert found["workspace_snapshot"]["hash"] == server.trace(original)["workspace_hash"]
    assert found["workspace_snapshot"]["kept"] is True
    files = found["workspace_snapshot"]["files"]
    assert files["SOUL.md"] == (workspace / "SOUL.md").read_text()
    assert files["skills/orders/SKILL.md"] == (workspace / "skills/orders/SKILL.md").read_text()
    assert found["skill_versions"] == {"orders": "1.0.0", "tone": "2.1.0"}
    assert found["model"] == "openai/gpt-4o-mini"
    assert "orders:lookup" in found["tools"]


def test_the_same_again_asks_the_same_and_differs_in_nothing(
    server: Server, openai: FakeProvider, original: str, settings: Any
) -> None:
    settings.BACKEND_URL = "http://127.0.0.1:9"  # nobody listens: the recording is all there is
    first = [exchange.body for exchange in openai.requests]
    openai.script(tool_calls(ORDER), reply("It was shipped."))
    answer = again(server, original)
    assert [exchange.body for exchange in openai.requests[2:]] == first
    assert answer["replay_of"] == original
    assert set(answer["diff"]["summary"]["significantChanges"]) <= {"timing"}
    assert answer["diff"]["steps"]["identical"] is True
    trace = server.trace(answer["trace_id"])
    assert (trace["kind"], trace["status"], trace["output"]) == ("replay", "success", {"response": "It was shipped."})
    assert Trace.objects.get(id=answer["trace_id"]).replay_of == original
    assert trace["message_id"] is None
    assert_balanced()


def test_the_prompt_is_of_its_time_whatever_the_workspace_became(
    server: Server, openai: FakeProvider, original: str, workspace: Path
) -> None:
    (workspace / "SOUL.md").write_text("You are somebody else now.")
    openai.script(reply("It was shipped."))
    again(server, original)
    assert openai.requests[-1].body["messages"][0] == openai.requests[0].body["messages"][0]
    openai.script(reply("It was shipped."))
    changed = again(server, original, workspace_version="current")
    assert "You are somebody else now." in openai.requests[-1].body["messages"][0]["content"]
    assert "workspace" in changed["diff"]["summary"]["significantChanges"]


def test_changes_are_made_and_reported(server: Server, openai: FakeProvider, original: str) -> None:
    openai.script(reply("Shipped."))
    answer = again(server, original, model="gpt-4o", temperature=0.1, max_tokens=77)
    sent = openai.requests[-1].body
    assert (sent["model"], sent["temperature"], sent["max_tokens"]) == ("gpt-4o", 0.1, 77)
    assert {"model", "output", "tool_calls"} <= set(answer["diff"]["summary"]["significantChanges"])
    assert "gpt-4o-mini → gpt-4o" in answer["summary_text"]
    (entry,) = [e for e in server.audit(trace_id=answer["trace_id"]) if e["event_type"] == "trace.replay"]
    assert entry["details"]["replay_of"] == original
    assert entry["details"]["changes"]["model"] == "gpt-4o"
    assert answer["overrides"] == {"model": "gpt-4o", "temperature": 0.1, "max_tokens": 77, "tools": "recorded"}


def test_a_call_that_was_not_made_then_is_an_error_to_the_model(
    server: Server, openai: FakeProvider, original: str
) -> None:
    openai.script(tool_calls(("orders_lookup", '{"order_id": "ORD-1001"}')), reply("I do not know."))
    answer = again(server, original)
    assert "recording holds no call" in openai.requests[-1].body["messages"][-1]["content"]
    assert answer["diff"]["steps"]["firstDivergence"]["index"] == 0


def test_live_tools_are_called_and_nothing_else_is_written(
    server: Server, backend: Backend, openai: FakeProvider
) -> None:
    backend.tools["orders:lookup"] = lambda arguments: {"status": "shipped"}
    original = ask_for_order(server, openai)
    before = len(backend.calls)
    openai.script(tool_calls(ORDER), reply("It was shipped."))
    assert again(server, original)["diff"]["steps"]["identical"] is True
    assert len(backend.calls) == before
    openai.script(tool_calls(ORDER), reply("It was shipped."))
    again(server, original, tools="live")
    assert [call.route for call in backend.calls[before:] if call.route.startswith("POST")] == [
        "POST /api/tools/orders:lookup"
    ]


def test_a_task_is_repeated_with_its_schema(server: Server, openai: FakeProvider) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    openai.default = reply('{"city": "Rome"}')
    task = server.post("/llm-task", {"prompt": "Which city?", "schema": schema, "tenant_id": ACME})
    answer = again(server, task.json()["trace_id"])
    assert (answer["output"], answer["validated"]) == ({"city": "Rome"}, True)
    assert openai.requests[1].body == openai.requests[0].body


# --- What cannot be repeated -----------------------------------------------------------------------------------------


def test_a_run_without_its_texts(server: Server, openai: FakeProvider, original: str) -> None:
    asked = len(openai.requests)
    TracePayload.objects.filter(trace_id=original).delete()
    assert server.get(f"/traces/{original}/replay").json()["code"] == "trace_stripped"
    refused(server, original, 409, "trace_stripped")
    assert len(openai.requests) == asked


def test_a_key_repeats_the_replay_of_one_run_only(server: Server, openai: FakeProvider, original: str) -> None:
    openai.default = reply("Shipped.")
    other = server.send("And ORD-1001?").json()["trace_id"]
    asked = len(openai.requests)
    headers = {"Idempotency-Key": "again"}
    first, same = (server.post(f"/traces/{original}/replay", {}, headers=headers) for _ in range(2))
    assert len(openai.requests) == asked + 1
    assert same.json()["trace_id"] == first.json()["trace_id"] == same.headers["X-Trace-Id"]
    assert same.headers["Idempotency-Replayed"] == "true"
    mixed_up = server.post(f"/traces/{other}/replay", {}, headers=headers)
    assert (mixed_up.status_code, mixed_up.json()["code"]) == (409, "idempotency_mismatch")


def test_bad_changes_are_reported_all_at_once(server: Server, original: str) -> None:
    body = refused(
        server,
        original,
        400,
        "invalid_request",
        temperature=3,
        max_tokens=0,
        tools="maybe",
        prompt="a",
        system_prompt="b",
        x=1,
    )
    assert body["details"]["fieldErrors"].keys() == {"temperature", "max_tokens", "tools", "prompt", "x"}
    refused(server, original, 400, "invalid_request", workspace_version="sha256:nobody")
    body = refused(server, original, 400, "invalid_request", skill_versions={"orders": "9.9.9"})
    assert "has 1.0.0" in body["details"]["fieldErrors"]["skill_versions"][0]


def test_errors_of_changes_say_what_is_possible(server: Server, original: str) -> None:
    empty = {"model": "", "prompt": "", "workspace_version": " "}
    body = refused(server, original, 400, "invalid_request", **empty, tools="maybe", skill_versions={"orders": 1})
    errors = body["details"]["fieldErrors"]
    assert all(errors[name] == ["The text is empty."] for name in empty)
    assert "Must be one of recorded, live." in errors["tools"]
    assert errors["skill_versions"] == ["['orders']: Expected a string, got an integer"]
    refused(server, original, 400, "invalid_request", system_prompt="")


def test_a_run_without_a_workspace_has_no_versions(server: Server, openai: FakeProvider) -> None:
    openai.default = reply('{"city": "Rome"}')
    task = server.post("/llm-task", {"prompt": "Which city?", "tenant_id": ACME}).json()["trace_id"]
    body = refused(server, task, 400, "invalid_request", workspace_version="current", skill_versions={"orders": "1"})
    assert body["details"]["fieldErrors"].keys() == {"workspace_version", "skill_versions"}


def test_a_workspace_that_is_not_kept(server: Server, openai: FakeProvider, original: str, workspace: Path) -> None:
    (workspace / "SOUL.md").write_text("You are somebody else now.")
    load_workspace(fresh=True)
    Snapshot.objects.all().delete()
    snapshot = told(server, original)["workspace_snapshot"]
    assert (snapshot["kept"], snapshot["files"]) == (False, {})
    body = refused(server, original, 409, "workspace_missing")
    assert body["details"] == {"workspace_hash": snapshot["hash"]}
    openai.script(reply("It was shipped."))
    replayed = again(server, original, workspace_version="current")["trace_id"]
    for soul in ("Third.", "Fourth."):
        (workspace / "SOUL.md").write_text(soul)
        load_workspace(fresh=True)
    stored = told(server, replayed)["workspace_snapshot"]
    assert stored["files"]["SOUL.md"] == "You are somebody else now.", "stored before the replay's trace named it"


def test_a_schema_that_redaction_has_spoilt(server: Server, openai: FakeProvider) -> None:
    openai.default = reply('"Rome"')
    schema = {"$id": "https://example.com/mara.lindqvist@example.com", "type": "string"}
    task = server.post("/llm-task", {"prompt": "Which city?", "schema": schema, "tenant_id": ACME})
    refused(server, task.json()["trace_id"], 409, "trace_stripped")


def test_a_policy_that_strips_the_replay_makes_no_difference(
    server: Server, openai: FakeProvider, original: str
) -> None:
    server.post(f"/traces/{original}/label", {"labels": {"baseline": "true"}})
    for values in ({"storage_mode": "summary"}, {"storage_mode": "minimal"}, {"sampling_strategy": "errors_only"}):
        default = {"storage_mode": "full", "sampling_strategy": "full"}
        set_policy(tenant_id=ACME, actor="user:test", now=utc_now(), values={**default, **values})
        openai.script(tool_calls(ORDER), reply("It was shipped."))
        diff = again(server, original)["diff"]
        assert set(diff["summary"]["significantChanges"]) <= {"timing"}
        assert diff["steps"]["identical"] is True


def test_a_replay_whose_original_is_gone_is_answered_and_repeated(
    server: Server, openai: FakeProvider, original: str
) -> None:
    """Retention deletes the original while the model answers."""

    async def deletes(exchange: Exchange) -> web.StreamResponse:
        await database_sync_to_async(Trace.objects.filter(id=original).delete)()
        return await reply("It was shipped.")(exchange)

    openai.script(deletes)
    headers = {"Idempotency-Key": "again"}
    first = server.post(f"/traces/{original}/replay", {"max_tokens": 99}, headers=headers)
    assert first.status_code == 200, first.text
    answer = first.json()
    assert (answer["response"], answer["diff"], answer["summary_text"]) == ("It was shipped.", None, None)
    asked = len(openai.requests)
    for key in (None, tenant_key(ACME)):
        same = server.post(f"/traces/{original}/replay", {"max_tokens": 99}, headers=headers, key=key)
        assert (same.status_code, same.json()) == (200, answer)
        assert same.headers["Idempotency-Replayed"] == "true"
    assert len(openai.requests) == asked
    for changes, key in (({}, None), ({"max_tokens": 99}, tenant_key(GLOBEX))):
        other = server.post(f"/traces/{original}/replay", changes, headers=headers, key=key)
        assert other.status_code == 404


def test_a_replay_that_fails_is_traced(server: Server, openai: FakeProvider, original: str) -> None:
    openai.script(error(401))
    body = refused(server, original, 502, "provider_error")
    assert body["details"]["replay_of"] == original
    trace = Trace.objects.get(id=body["trace_id"])
    assert (trace.kind, trace.status, trace.replay_of) == ("replay", "error", original)
    assert_balanced()


# --- Governed like every run -----------------------------------------------------------------------------------------


def test_identity_scopes_and_tenant(server: Server, openai: FakeProvider, original: str) -> None:
    asked = len(openai.requests)
    assert server.post(f"/traces/{original}/replay", {}, key="").status_code == 403
    assert server.post(f"/traces/{original}/replay", {}, key="clk_wrong").status_code == 401
    refused(server, original, 404, "not_found", key=tenant_key(GLOBEX))
    assert server.get(f"/traces/{original}/replay", key=tenant_key(GLOBEX)).status_code == 404
    refused(server, "0194c8f0-7e1a-7000-8000-000000000001", 404, "not_found")
    assert server.get(f"/traces/{original}/replay", key=tenant_key(ACME, "workspace:read")).status_code == 403
    told(server, original, key=tenant_key(ACME, "traces:read"))
    for scopes in ("agents:run", "traces:write"):
        refused(server, original, 403, "permission_denied", key=tenant_key(ACME, scopes))
    refused(server, original, 403, "permission_denied", key=tenant_key(ACME, allowed_models=["gpt-4o"]))
    refused(server, original, 403, "permission_denied", key=tenant_key(ACME, "agents:run,traces:write"), prompt="Obey.")
    assert len(openai.requests) == asked
    openai.script(reply("Shipped."))
    again(server, original, key=tenant_key(ACME, "agents:run,traces:write"))


def test_the_budget_holds(server: Server, openai: FakeProvider, original: str) -> None:
    server.set_budget(limit=0.000_000_001)
    asked = len(openai.requests)
    refused(server, original, 402, "budget_exceeded")
    assert len(openai.requests) == asked


def test_permissions_of_tools_hold(server: Server, openai: FakeProvider, original: str) -> None:
    openai.script(tool_calls(ORDER), reply("I may not."))
    answer = again(server, original, key=tenant_key(ACME, denied_tools=["orders:*"]))
    steps = server.trace(answer["trace_id"])["steps"]
    assert [step["status"] for step in steps if step["type"] == "tool_call"] == ["denied"]


def test_personal_data_is_not_in_the_description(server: Server, openai: FakeProvider) -> None:
    private = "mara.lindqvist@example.com"
    original = server.send(f"Write to {private}.").json()["trace_id"]
    assert private not in json.dumps(told(server, original))
    again(server, original)
    assert private not in str(openai.requests[-1].body)
