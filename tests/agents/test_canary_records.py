"""Personal data and secrets in what is done with stored runs, and every way out of the store: none of it is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fakes.llm import FakeProvider, error, reply, tool_calls
from tests.agents.backend import Backend
from tests.agents.canaries import Canaries, leaks
from tests.ops.feeds import Listener
from tests.world import ACME, Server


@pytest.fixture
def runs(server: Server, backend: Backend, openai: FakeProvider, canaries: Canaries) -> list[str]:
    """Two runs of acme's with canaries in their texts, the second of which failed."""
    backend.tools["orders:lookup"] = lambda arguments: {"note": canaries.text("result")}
    call = tool_calls(("orders_lookup", json.dumps({"order_id": canaries.text("arguments")})))
    openai.script(call, reply(canaries.text("answer")), error(400, {"error": {"message": canaries.text("problem")}}))
    answers = [server.send(canaries.text("message"), task_title=canaries.text("title")) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 502]
    return [answer.headers["X-Trace-Id"] for answer in answers]


@pytest.fixture
def noted(server: Server, runs: list[str], canaries: Canaries) -> list[str]:
    """The same runs with labels and annotations."""
    for trace_id in runs:
        labels = {canaries.name("label"): canaries.text("label value", "phone", "card", "key"), "team": "blue"}
        assert server.post(f"/traces/{trace_id}/label", {"labels": labels}).status_code == 200
        note = {"key": canaries.name("note"), "value": canaries.text("note value")}
        assert server.post(f"/traces/{trace_id}/annotate", note).status_code == 201
    return runs


def test_labels_and_annotations(
    server: Server, noted: list[str], canaries: Canaries, caplog: pytest.LogCaptureFixture
) -> None:
    shown = server.trace(noted[0])
    assert shown["labels"] == {"[EMAIL]": "call [PHONE], card [CREDIT_CARD], key [API_KEY]", "team": "blue"}
    (note,) = shown["annotations"]
    assert (note["key"], note["value"].split(",")[0]) == ("[EMAIL]", "write to [EMAIL]")
    assert leaks(canaries, caplog) == []


def test_removing_labels(
    server: Server, noted: list[str], canaries: Canaries, caplog: pytest.LogCaptureFixture
) -> None:
    """A label is removed by the name under which it was given, and nothing is kept of names that were not there."""
    (given,) = canaries.of("label")
    changes = {given: None, canaries.name("unknown label"): None}
    answer = server.post(f"/traces/{noted[1]}/label", {"labels": changes})
    assert answer.json()["labels"] == {"team": "blue"}
    assert leaks(canaries, caplog) == []


REFUSED: dict[str, Any] = {
    "label": lambda text: {"labels": {text("long label") * 2: text("value"), "list": [text("item")]}},
    "annotate": lambda text: {"key": text("long key"), "value": {text("value key"): text("value")}},
}


@pytest.mark.parametrize("what", REFUSED)
def test_notes_that_are_refused(
    what: str, server: Server, runs: list[str], canaries: Canaries, caplog: pytest.LogCaptureFixture
) -> None:
    assert server.post(f"/traces/{runs[0]}/{what}", REFUSED[what](canaries.text)).status_code == 400
    for trace_id in (canaries.name("id"), canaries.text("words")):
        body: dict[str, Any] = {"labels": {}} if what == "label" else {"key": "a", "value": "b"}
        assert server.post(f"/traces/{trace_id}/{what}", body).status_code == 404
    assert leaks(canaries, caplog) == []


# --- Ways out ---------------------------------------------------------------------------------------------------------


def ways_out(server: Server, runs: list[str]) -> Iterator[httpx.Response]:
    """Everything that tells of runs and of the audit log."""
    for trace_id in runs:
        for part in ("", "/annotations", "/replay"):
            yield server.get(f"/traces/{trace_id}{part}")
    pair = {"base_trace_id": runs[0], "compare_trace_id": runs[1], "include_output_diff": True}
    yield server.post("/traces/diff", pair)
    yield server.get("/traces")
    yield server.get("/traces/export", params={"format": "csv"})
    yield server.get("/traces/export", params={"format": "ndjson", "include": "steps,content"})
    yield server.get("/traces/by-label", params={"label": "[EMAIL]"})
    yield server.get("/audit", params={"limit": 1000})
    for file_format in ("csv", "ndjson"):
        yield server.get("/audit/export", params={"tenant_id": ACME, "format": file_format})
    yield server.get("/metrics")


def test_nothing_is_leaked(
    server: Server, noted: list[str], canaries: Canaries, caplog: pytest.LogCaptureFixture
) -> None:
    for response in ways_out(server, noted):
        assert response.status_code == 200, response.text
        assert canaries.found_in(response.text) == [], response.url
    assert leaks(canaries, caplog) == []


def test_live_events(
    server: Server, openai: FakeProvider, canaries: Canaries, caplog: pytest.LogCaptureFixture
) -> None:
    openai.script(reply(canaries.text("answer")))
    with Listener.open(server.url, last=0) as (listener, _):
        answer = server.send(canaries.text("message"), metadata={"system_prompt": canaries.text("prompt")})
        trace_id = answer.json()["trace_id"]
        server.post(f"/traces/{trace_id}/label", {"labels": {canaries.name("label"): canaries.name("value")}})
        server.post(f"/traces/{trace_id}/annotate", {"key": canaries.name("note"), "value": canaries.text("text")})
        server.get("/traces/export", params={"format": "csv", "tenant_id": ACME, "text": canaries.name("search")})
        heard = listener.hear(6)
    assert {event.event for event in heard} == {
        *("agent.start", "prompt.override", "agent.complete", "trace.label", "trace.annotate", "trace.export")
    }
    assert canaries.found_in(json.dumps([event.data for event in heard])) == []
    assert leaks(canaries, caplog) == []


FILTERS = ("text", "label", "label_value", "user_id", "agent_id", "model", "workspace_id", "environment", "kind")


def test_searching_for_personal_data(
    server: Server, noted: list[str], canaries: Canaries, caplog: pytest.LogCaptureFixture
) -> None:
    """What somebody looks for is nothing that anybody keeps, whether there is an answer or not."""
    for name in FILTERS:
        query = {name: canaries.name(name), "label": canaries.name("with")} if name == "label_value" else {}
        query = query or {name: canaries.name(name)}
        for path in ("/traces", "/traces/export"):
            assert server.get(path, params={"format": "ndjson", **query}).status_code in (200, 400), name
        assert server.get("/traces", params={**query, "limit": canaries.text("limit")}).status_code == 400
    for name in ("actor", "event_type", "trace_id"):
        assert server.get("/audit", params={name: canaries.name(name)}).status_code in (200, 400)
    for name in ("label", "value"):
        server.get("/traces/by-label", params={"label": "team", name: canaries.name(f"by {name}")})
    for name in ("task_id", "document_id", "message_id"):
        server.get("/traces/by-entity", params={name: canaries.name(name)})
    assert leaks(canaries, caplog) == []


def test_comparing_what_is_not_there(
    server: Server, runs: list[str], canaries: Canaries, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"base_trace_id": canaries.name("base"), "compare_trace_id": runs[0]}
    assert server.post("/traces/diff", body).status_code == 404
    assert server.post("/traces/diff", {**body, "base_trace_id": canaries.text("long")}).status_code == 400
    assert server.post("/traces/diff", {**body, "tenant_id": canaries.name("tenant")}).status_code == 404
    assert leaks(canaries, caplog) == []
