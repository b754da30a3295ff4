"""Personal data and secrets in the runs without a conversation: structured tasks, compactions, replays."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from fakes.llm import FakeProvider, error, reply, tool_calls
from tests.agents.backend import Backend
from tests.agents.canaries import Canaries, leaks
from tests.world import ACME, Server

ORDERS = "orders:lookup"


def task(canaries: Canaries) -> dict[str, Any]:
    """A structured task with a canary in every field, in the schema's names too."""
    text = canaries.text
    properties = {
        text("property"): {"type": "string", "description": text("description"), "enum": [text("enum")]},
        "age": {"type": "integer", "title": text("title"), "default": text("default"), "examples": [text("example")]},
    }
    return {
        "tenant_id": ACME,
        "prompt": text("prompt"),
        "input": {text("input key"): [text("input")]},
        "schema": {"type": "object", "properties": properties, "required": ["age", text("required")]},
        "metadata": {"note": text("metadata"), text("metadata key"): 1},
    }


@pytest.mark.parametrize("outcome", ["valid", "invalid", "no JSON", "failure"])
def test_a_structured_task(
    outcome: str, server: Server, openai: FakeProvider, canaries: Canaries, caplog: pytest.LogCaptureFixture
) -> None:
    body = task(canaries)
    schema = body["schema"]
    if outcome == "valid":
        enumerated = {name: rule["enum"][0] for name, rule in schema["properties"].items() if "enum" in rule}
        openai.default = reply(json.dumps({**enumerated, "age": 7, schema["required"][1]: canaries.text("answer")}))
    elif outcome == "invalid":
        openai.default = reply(json.dumps({"age": canaries.text("answer"), canaries.text("answer key"): 1}))
    elif outcome == "no JSON":
        openai.default = reply(canaries.text("answer"))
    else:
        openai.default = error(400, {"error": {"message": canaries.text("problem")}})
    response = server.post("/llm-task", body, headers={"X-Trace-Id": canaries.text("header")})
    assert response.status_code == (502 if outcome in ("no JSON", "failure") else 200), response.text
    assert response.json().get("validated", False) is (outcome == "valid")
    assert leaks(canaries, caplog) == []


def test_tasks_that_are_refused(server: Server, canaries: Canaries, caplog: pytest.LogCaptureFixture) -> None:
    bad = {"type": canaries.text("type"), "$ref": canaries.text("reference"), "pattern": canaries.text("pattern")}
    assert server.post("/llm-task", {**task(canaries), "schema": bad}).status_code == 400
    assert server.post("/llm-task", {**task(canaries), "model": canaries.name("model")}).status_code == 400
    assert leaks(canaries, caplog) == []


@pytest.mark.parametrize("outcome", ["summary", "failure"])
def test_a_compaction(
    outcome: str, server: Server, openai: FakeProvider, canaries: Canaries, caplog: pytest.LogCaptureFixture
) -> None:
    problem = {"error": {"message": canaries.text("problem")}}
    openai.default = reply(canaries.text("summary")) if outcome == "summary" else error(400, problem)
    turns = [{"role": role, "content": canaries.text(role)} for role in ("system", "user", "assistant", "user")]
    body = {"tenant_id": ACME, "messages": turns, "keep_recent": 1, "metadata": {"note": canaries.text("metadata")}}
    response = server.post("/compact", {**body, "instructions": canaries.text("instructions")})
    assert response.status_code == (200 if outcome == "summary" else 502), response.text
    assert leaks(canaries, caplog) == []


# --- Replays ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def original(server: Server, backend: Backend, openai: FakeProvider, canaries: Canaries) -> str:
    """A run with personal data in what was asked, called, found and answered."""
    backend.tools[ORDERS] = lambda arguments: {"note": canaries.text("result"), canaries.text("result key"): 1}
    openai.script(call(canaries, "first call"), reply(canaries.text("first answer")))
    answer = server.send(canaries.text("message"), metadata={"system_prompt": canaries.text("first prompt")})
    assert answer.status_code == 200, answer.text
    trace_id: str = answer.json()["trace_id"]
    return trace_id


def call(canaries: Canaries, where: str) -> Any:
    return tool_calls(
        (ORDERS.replace(":", "_"), json.dumps({"order_id": canaries.text(where)})), text=canaries.text(f"{where} words")
    )


def told(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


@pytest.mark.parametrize("prompt", ["prompt", "system_prompt"])
@pytest.mark.parametrize("tools", ["recorded", "live"])
def test_a_replay(
    tools: str,
    prompt: str,
    server: Server,
    openai: FakeProvider,
    original: str,
    canaries: Canaries,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The comparison of the two runs is told from what is stored of them."""
    openai.script(call(canaries, "second call"), reply(canaries.text("second answer")))
    overrides = {"tools": tools, prompt: canaries.text("override")}
    headers = {"X-Trace-Id": canaries.text("trace header"), "Idempotency-Key": canaries.name("idempotency header")}
    answer = told(server.post(f"/traces/{original}/replay", overrides, headers=headers))
    assert answer["response"] == openai_said(canaries, "second answer")
    assert canaries.found_in(json.dumps([answer["diff"], answer["summary_text"]])) == []
    assert canaries.found_in(json.dumps(told(server.get(f"/traces/{original}/replay")))) == []
    assert canaries.found_in(json.dumps(told(server.get(f"/traces/{answer['trace_id']}/replay")))) == []
    assert leaks(canaries, caplog) == []


def openai_said(canaries: Canaries, where: str) -> str:
    email, phone, card, key, token = canaries.of(where)
    return f"write to {email}, call {phone}, card {card}, key {key}, token {token}"


def test_replays_that_are_refused(
    server: Server, openai: FakeProvider, original: str, canaries: Canaries, caplog: pytest.LogCaptureFixture
) -> None:
    bad: list[tuple[dict[str, Any], int]] = [
        ({"workspace_version": canaries.name("version")}, 400),
        ({"skill_versions": {canaries.text("skill"): canaries.text("skill version")}}, 400),
        ({"tools": canaries.text("tools"), canaries.text("override"): canaries.text("value")}, 400),
        ({"model": canaries.text("model")}, 400),
        ({"model": f"openai/{canaries.name('other model')}"}, 400),
    ]
    for changes, status in bad:
        assert server.post(f"/traces/{original}/replay", changes).status_code == status
    openai.script(error(400, {"error": {"message": canaries.text("problem")}}))
    assert server.post(f"/traces/{original}/replay", {}).status_code == 502
    assert server.post(f"/traces/{canaries.name('trace')}/replay", {}).status_code == 404
    assert leaks(canaries, caplog) == []
