"""POST /api/agents/stream: the events, their order and shapes, and what happens around them."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from apps.agents.consumers import base as consumers
from fakes.llm import FakeProvider, error, half_stream, reply, tool_calls
from tests.agents.backend import MESSAGES, Backend, answers
from tests.agents.ledger import assert_balanced
from tests.conftest import run
from tests.world import DAEMON_KEY, Event, Server, parse_events, send_body

USAGE = {"prompt_tokens": 100, "completion_tokens": 3, "total_tokens": 103}


def whole_text(events: list[Event]) -> str:
    return "".join(event.data["data"] for event in events if event.name == "chunk")


def test_the_events_of_a_plain_answer(server: Server, backend: Backend, openai: FakeProvider) -> None:
    openai.script(reply("It is late.", usage=USAGE))
    response = server.post("/api/agents/stream", send_body("Hello"))
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    events = parse_events(response.text)
    assert [event.name for event in events] == ["start", "chunk", "chunk", "chunk", "done"]
    assert all(event.data["type"] == event.name for event in events)
    assert events[0].data == {"type": "start"}
    assert events[1].data == {"type": "chunk", "data": "It "}
    done = events[-1].data
    assert list(done) == ["type", "task_id", "trace_id", "response", "usage", "cost"]
    assert done["response"] == whole_text(events) == "It is late."
    assert done["usage"] == USAGE
    assert done["cost"]["totalCost"] == (100 * 150 + 3 * 600) / 10**9
    assert response.headers["X-Trace-Id"] == done["trace_id"]
    assert done["task_id"] == backend.tasks[0]["id"]
    assert [message["content"] for message in backend.messages] == ["It is late."]
    trace = server.trace(done["trace_id"])
    assert (trace["kind"], trace["status"], trace["output"]) == ("stream", "success", {"response": "It is late."})
    assert trace["message_id"] == backend.messages[0]["id"]
    assert openai.requests[0].wants_stream
    assert_balanced()


def test_stream_true_on_send_is_the_same(server: Server, backend: Backend, openai: FakeProvider) -> None:
    openai.default = reply("The same.", usage=USAGE)
    responses = [
        server.post("/api/agents/stream", send_body("Hello")),
        server.post("/api/agents/send", send_body("Hello", stream=True)),
    ]
    streams = [parse_events(response.text) for response in responses]
    for events in streams:
        events[-1].data.pop("trace_id")
    assert streams[0] == streams[1]
    assert len(backend.messages) == 2


def test_stream_false_on_send_is_json(server: Server, backend: Backend, openai: FakeProvider) -> None:
    response = server.post("/api/agents/send", send_body("Hello", stream=False))
    assert response.headers["content-type"] == "application/json"
    assert not openai.requests[0].wants_stream


def test_text_beside_tool_calls_is_shown_and_not_part_of_the_answer(
    server: Server, backend: Backend, openai: FakeProvider
) -> None:
    backend.tools["orders:lookup"] = lambda arguments: {"status": "shipped"}
    openai.script(tool_calls(("orders:lookup", '{"order_id": "1"}'), text="Let me look."), reply("Shipped."))
    events = server.stream("Where is it?")
    names = [event.name for event in events if event.name != "chunk"]
    assert names == ["start", "tool_call", "tool_result", "done"]
    result = next(event.data for event in events if event.name == "tool_result")
    assert set(result) == {"type", "name", "status", "duration_ms"}
    assert events[-1].data["response"] == "Shipped."
    assert [message["content"] for message in backend.messages] == ["Shipped."]


def test_texts_of_any_kind_survive(server: Server, backend: Backend, openai: FakeProvider) -> None:
    """Line breaks would end an event, and bytes of one character may arrive in two pieces."""
    text = 'Line one\nline two\r\n\r\ndata: fake\n\nevent: done\n "quotes" 漢字 🦊 \u2028 end'
    openai.script(reply(text))
    events = server.stream("Hello")
    assert whole_text(events) == events[-1].data["response"] == backend.messages[0]["content"] == text


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"message": ""}, 400, "invalid_request"),
        ({"task_title": None}, 400, "invalid_request"),
        ({"session_key": "user:u-2:x"}, 400, "invalid_request"),
        ({"metadata": {"model": "groq/x"}}, 503, "model_not_configured"),
    ],
    ids=["message", "task", "user", "model"],
)
def test_a_refusal_is_json(
    server: Server, backend: Backend, openai: FakeProvider, change: dict[str, Any], status: int, code: str
) -> None:
    for path in ("stream", "send"):
        response = server.post(f"/api/agents/{path}", send_body(**{"message": "Hello", "stream": True, **change}))
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert response.headers["content-type"] == "application/json"


def test_skip_backend_needs_no_task(server: Server, backend: Backend, openai: FakeProvider) -> None:
    done = server.stream("Hello", task_title=None, metadata={"skip_backend": True})[-1]
    assert done.name == "done"
    assert (done.data["task_id"], done.data["skipped_backend"]) == (None, True)
    assert backend.writes == []


def test_a_failure_is_the_last_event(server: Server, backend: Backend, openai: FakeProvider) -> None:
    openai.script(error(401), half_stream(2))
    for chunks in (0, 2):
        response = server.post("/api/agents/stream", send_body("Hello"))
        events = parse_events(response.text)
        assert [event.name for event in events] == ["start", *["chunk"] * chunks, "error"]
        assert set(events[-1].data) == {"type", "error", "code", "details", "trace_id"}
        assert events[-1].data["trace_id"] == response.headers["X-Trace-Id"]
    assert backend.messages == []


def test_a_message_that_cannot_be_posted_is_an_error(server: Server, backend: Backend, openai: FakeProvider) -> None:
    backend.on(MESSAGES, answers(404))
    last = server.stream("Hello")[-1]
    assert (last.name, last.data["code"]) == ("error", "backend_error")
    assert server.trace(last.data["trace_id"])["status"] == "success"


def test_a_quiet_stream_beats(
    server: Server, backend: Backend, openai: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "HEARTBEAT_SECONDS", 0.05)
    openai.script(reply("Slow.", delay=0.2))
    response = server.post("/api/agents/stream", send_body("Hello"))
    assert response.text.count(": heartbeat\n\n") >= 3
    assert [event.name for event in parse_events(response.text)] == ["start", "chunk", "done"]


def test_chunks_leave_as_they_come(server: Server, backend: Backend, openai: FakeProvider) -> None:
    """The first words are there while the model still writes."""
    openai.script(reply("one two three four five", delay=0.1))
    with httpx.stream(
        "POST",
        f"{server.url}/api/agents/stream",
        json=send_body("Hello"),
        headers={"X-Agent-Daemon-Key": DAEMON_KEY},
    ) as response:
        lines = response.iter_lines()
        assert next(line for line in lines if line.startswith("event: chunk"))
        assert openai.requests[0].ended is None
        assert any(line.startswith("event: done") for line in lines)


def test_an_own_trace_id_names_the_run(server: Server, backend: Backend, openai: FakeProvider) -> None:
    own = "018f4e9a-7c2b-7d3e-8a4f-5b6c7d8e9f00"
    assert server.stream("Hello", headers={"X-Trace-Id": own})[-1].data["trace_id"] == own
    done = server.stream("Hello", headers={"X-Trace-Id": "my-correlation"})[-1]
    assert server.trace(done.data["trace_id"])["labels"] == {"correlation_id": "my-correlation"}
    assert [call.headers.get("X-Trace-ID") for call in backend.hits(MESSAGES)] == [own, done.data["trace_id"]]


def test_many_streams_at_once_stay_apart(server: Server, backend: Backend, openai: FakeProvider) -> None:
    async def one(client: httpx.AsyncClient, n: int) -> str:
        body = send_body(f"Number {n}", task_title=f"Task {n}")
        response = await client.post("/api/agents/stream", json=body)
        return str(parse_events(response.text)[-1].data["response"])

    async def all_of_them() -> list[str]:
        headers = {"X-Agent-Daemon-Key": DAEMON_KEY}
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=30) as client:
            return await asyncio.gather(*(one(client, n) for n in range(30)))

    async def echo(exchange: Any) -> Any:
        return await reply(f"You said {exchange.body['messages'][-1]['content']}", delay=0.005)(exchange)

    openai.default = echo
    assert run(all_of_them()) == [f"You said Number {n}" for n in range(30)]
    by_task = {task["id"]: task["title"] for task in backend.tasks}
    assert {by_task[message["task_id"]]: message["content"] for message in backend.messages} == {
        f"Task {n}": f"You said Number {n}" for n in range(30)
    }
    assert_balanced()
