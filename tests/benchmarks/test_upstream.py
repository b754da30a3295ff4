"""The benchmarks' fake upstream answers in the shapes that Clasper expects, and the load generator counts rightly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from benchmarks.answers import ANSWER, TOOL_NAME, USAGE
from benchmarks.load import measure, target
from benchmarks.upstream import TASK_ID, TASK_TITLE, TASKS, Options, listen
from fakes.llm import FakeChat

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
TOOLS = {"tools": [{"type": "function", "function": {"name": TOOL_NAME, "parameters": {}}}]}


@asynccontextmanager
async def upstream(options: Options = Options()) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:  # noqa: B008 - frozen
    server = await listen(options)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with aiohttp.ClientSession(url) as session:
        yield url, session
    server.close()


async def _json(answer: Any) -> Any:
    async with answer as response:
        return await response.json()


async def _events(session: aiohttp.ClientSession, body: dict[str, Any]) -> list[str]:
    async with session.post("/v1/chat/completions", json={**body, "stream": True}) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        text = await response.text()
    return [event.removeprefix("data: ") for event in text.split("\n\n") if event]


async def test_a_completion() -> None:
    async with upstream() as (_, session):
        completion = await _json(session.post("/v1/chat/completions", json=CHAT))
    assert len(ANSWER) == 400
    assert completion["choices"][0]["message"] == {
        "role": "assistant",
        "content": ANSWER.replace("R000000", "R000001"),
        "refusal": None,
    }
    assert completion["choices"][0]["finish_reason"] == "stop"
    assert completion["usage"] == FakeChat().counts(USAGE)


@pytest.mark.parametrize(("chunks", "gap"), [(20, 0.0), (1, 0.0), (5, 0.001)])
async def test_a_stream(chunks: int, gap: float) -> None:
    async with upstream(Options(chunks=chunks, chunk_gap=gap)) as (_, session):
        *events, done = await _events(session, CHAT)
    parsed = [json.loads(event) for event in events]
    deltas = [choice["delta"] for event in parsed for choice in event["choices"]]
    assert done == "[DONE]"
    assert len([delta for delta in deltas if delta.get("content")]) == chunks
    assert "".join(delta.get("content") or "" for delta in deltas) == ANSWER
    assert parsed[-2]["choices"][0]["finish_reason"] == "stop"
    assert parsed[-1]["usage"] == FakeChat().counts(USAGE)


async def test_tools_are_called_once_and_only_when_offered() -> None:
    follow_up = {**CHAT, **TOOLS, "messages": [{"role": "tool", "tool_call_id": "call_benchmark", "content": "{}"}]}
    async with upstream(Options(tool_calls=True)) as (_, session):
        without = await _json(session.post("/v1/chat/completions", json=CHAT))
        first = await _json(session.post("/v1/chat/completions", json={**CHAT, **TOOLS}))
        second = await _json(session.post("/v1/chat/completions", json=follow_up))
        events = await _events(session, {**CHAT, **TOOLS})
        listed = await _json(session.get("/api/tools"))
        executed = await _json(session.post(f"/api/tools/{TOOL_NAME}", json={"arguments": {}}))
    assert without["choices"][0]["finish_reason"] == second["choices"][0]["finish_reason"] == "stop"
    call = first["choices"][0]["message"]["tool_calls"][0]
    assert call["function"]["name"] == TOOL_NAME == listed["tools"][0]["name"]
    assert json.loads(call["function"]["arguments"])
    assert json.loads(events[1])["choices"][0]["delta"]["tool_calls"][0]["id"] == call["id"]
    assert "result" in executed


async def test_the_control_plane() -> None:
    async with upstream() as (_, session):
        capabilities = await _json(session.get("/api/mission-control/capabilities"))
        tasks = await _json(session.get("/api/mission-control/tasks?limit=50"))
        task = await _json(session.post("/api/mission-control/tasks", json={"title": TASK_TITLE}))
        message = await _json(session.post("/api/mission-control/messages", json={"task_id": TASK_ID}))
        document = await _json(session.post("/api/mission-control/documents", json={"task_id": TASK_ID}))
        health = await _json(session.get("/health"))
        async with session.get("/elsewhere") as missing:
            assert missing.status == 404
    assert capabilities["contract_version"] == "v1"
    assert capabilities["features"]["tasks"] is True
    assert len(tasks["items"]) == TASKS
    assert [each["id"] for each in tasks["items"] if each["title"] == TASK_TITLE] == [TASK_ID] == [task["id"]]
    assert message["task_id"] == document["task_id"] == TASK_ID
    assert health == {"status": "ok"}


async def test_requests_are_counted() -> None:
    async with upstream() as (_, session):
        for _ in range(3):
            await _json(session.post("/v1/chat/completions", json=CHAT))
        await _events(session, CHAT)
        counts = await _json(session.get("/_counts"))
    assert (counts["completions"], counts["completions_streamed"]) == (3, 1)
    assert counts["completion_bytes"] >= 4 * len(json.dumps(CHAT))


async def test_ids_and_texts_differ_from_answer_to_answer() -> None:
    async with upstream() as (_, session):
        completions = [await _json(session.post("/v1/chat/completions", json=CHAT)) for _ in range(3)]
        messages = [await _json(session.post("/api/mission-control/messages", json={})) for _ in range(3)]
    assert len({each["id"] for each in completions}) == len({each["id"] for each in messages}) == 3
    texts = {each["choices"][0]["message"]["content"] for each in completions}
    assert [len(text) for text in texts] == [400, 400, 400]


async def test_a_client_that_leaves_is_noticed() -> None:
    async with upstream(Options(chunks=10, chunk_gap=30)) as (_, session):
        response = await session.post("/v1/chat/completions", json={**CHAT, "stream": True})
        await response.content.readline()
        response.close()
        async with asyncio.timeout(5):
            while (await _json(session.get("/_counts"))).get(
                "streams_left"
            ) != 1:  # each question is a turn of the loop
                pass


async def test_latency_is_kept() -> None:
    async with upstream(Options(latency=0.05)) as (url, _):
        result = await measure(target(f"{url}/v1/chat/completions", [json.dumps(CHAT).encode()]), clients=2, requests=2)
    assert result.latency_ms["p50"] >= 50


async def test_the_closed_loop_sends_exactly_as_many() -> None:
    async with upstream() as (url, session):
        where = target(f"{url}/api/mission-control/messages", [b"{}"], {"X-Agent-Token": "t"})
        result = await measure(where, clients=4, requests=50)
        counts = await _json(session.get("/_counts"))
    assert (result.requests, result.errors, result.statuses) == (50, 0, {"201": 50})
    assert counts == {"messages": 50}


async def test_the_open_loop_keeps_its_rate() -> None:
    async with upstream() as (url, _):
        where = target(f"{url}/api/mission-control/messages", [b"{}"])
        result = await measure(where, clients=4, rate=200, seconds=0.25)
    assert (result.requests, result.errors) == (50, 0)


async def test_events_are_counted() -> None:
    body = json.dumps({**CHAT, "stream": True}).encode()
    async with upstream(Options(chunks=7, chunk_gap=0.001)) as (url, _):
        result = await measure(target(f"{url}/v1/chat/completions", [body]), clients=3, requests=6, streams=True)
    # the role, the content, the end, the usage and [DONE]
    assert result.events == 6 * (1 + 7 + 3)
    assert result.first_event_ms["p50"] <= result.latency_ms["p50"]


async def test_a_broken_connection_is_an_error_not_a_hang() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    where = target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", [b"{}"])
    result = await measure(where, clients=1, requests=3)
    server.close()
    assert result.requests == 0
    assert result.errors >= 1
