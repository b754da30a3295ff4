"""Clasper's own gateways understand the fake upstream in each wire format, and it can be told how to stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import aiohttp
import pytest
from yarl import URL

from benchmarks.answers import ANSWER, PROVIDERS, USAGE, pieces_of
from benchmarks.capacity import STREAM_CHUNKS, capacity, streaming_capacity
from benchmarks.load import measure, target
from benchmarks.upstream import Options, listen
from clasper.gateways.http import close_session
from clasper.gateways.llm.anthropic import AnthropicFormat
from clasper.gateways.llm.base import Completion, Message, ModelCall, TextDelta
from clasper.gateways.llm.exchange import HttpProvider
from clasper.gateways.llm.gemini import GeminiFormat
from clasper.gateways.llm.openai_chat import ChatFormat
from clasper.gateways.llm.openai_chat.dialects import COMPATIBLE
from clasper.gateways.llm.wire_format import WireFormat

CLIENTS: dict[str, Callable[[str], WireFormat]] = {
    "chat": lambda url: ChatFormat("openai", URL(f"{url}/v1/chat/completions"), COMPATIBLE),
    "messages": lambda url: AnthropicFormat("anthropic", URL(f"{url}/v1")),
    "gemini": lambda url: GeminiFormat("gemini", URL(f"{url}/v1beta")),
}


@asynccontextmanager
async def upstream(options: Options = Options()) -> AsyncIterator[str]:  # noqa: B008 - frozen
    server = await listen(options)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await close_session()
    server.close()


def provider(wire_format: str, url: str) -> HttpProvider:
    return HttpProvider(CLIENTS[wire_format](url), "key", url)


def question(wire_format: str) -> ModelCall:
    return ModelCall(
        model=PROVIDERS[wire_format].model, messages=(Message("user", "Hi"),), max_output_tokens=500, timeout=10
    )


async def streamed(wire_format: str, url: str) -> tuple[list[str], Completion]:
    deltas: list[str] = []
    async with aclosing(provider(wire_format, url).stream(question(wire_format))) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                deltas.append(event.text)
            else:
                return deltas, event
    raise AssertionError("a stream without a completion")


@pytest.mark.parametrize("wire_format", PROVIDERS)
async def test_whole_answers_are_understood_and_differ(wire_format: str) -> None:
    async with upstream() as url:
        first = await provider(wire_format, url).complete(question(wire_format))
        second = await provider(wire_format, url).complete(question(wire_format))
    assert first.text == ANSWER.replace("R000000", "R000001")
    assert second.text == ANSWER.replace("R000000", "R000002")
    assert (first.usage, first.usage_reported, first.finish, first.model) == (
        USAGE,
        True,
        "stop",
        PROVIDERS[wire_format].model,
    )


@pytest.mark.parametrize("wire_format", PROVIDERS)
@pytest.mark.parametrize(("chunks", "gap"), [(20, 0.0), (1, 0.0), (5, 0.001)])
async def test_streams_are_understood(wire_format: str, chunks: int, gap: float) -> None:
    async with upstream(Options(chunks=chunks, chunk_gap=gap)) as url:
        deltas, completion = await streamed(wire_format, url)
    assert deltas == pieces_of(chunks)
    assert completion.text == ANSWER
    assert (completion.usage, completion.finish, completion.model) == (USAGE, "stop", PROVIDERS[wire_format].model)


@pytest.mark.parametrize("wire_format", PROVIDERS)
async def test_the_wire_format_that_was_asked_is_counted(wire_format: str) -> None:
    async with upstream() as url, aiohttp.ClientSession() as session:
        await provider(wire_format, url).complete(question(wire_format))
        await streamed(wire_format, url)
        async with session.get(f"{url}/_counts") as response:
            counts = await response.json()
    assert (counts["completions"], counts["completions_streamed"], counts[f"asked_{wire_format}"]) == (1, 1, 2)
    assert not [name for name in counts if name.startswith("asked_") and name != f"asked_{wire_format}"]


@pytest.mark.parametrize("wire_format", PROVIDERS)
async def test_streams_change_on_request(wire_format: str) -> None:
    async with upstream() as url, aiohttp.ClientSession() as session:
        for chunks, chars in ((3, 4), (300, 4), (7, 0)):
            async with session.post(f"{url}/_options", json={"chunks": chunks, "chunk_chars": chars}) as response:
                assert response.status == 200
            deltas, completion = await streamed(wire_format, url)
            assert len(deltas) == chunks
            assert completion.text == "".join(deltas)
            if chars:
                assert {len(delta) for delta in deltas} == {chars}


@pytest.mark.parametrize("options", [{"chunk": 3}, {"chunks": "3"}, {"chunks": 0}, [], 3], ids=str)
async def test_options_that_make_no_sense_are_refused(options: object) -> None:
    async with upstream() as url, aiohttp.ClientSession() as session:
        async with session.post(f"{url}/_options", json=options) as response:
            assert response.status == 400
        deltas, _ = await streamed("chat", url)
    assert deltas == pieces_of(20)


@pytest.mark.parametrize("gap", [0.0, 0.001])
async def test_the_load_generator_counts_the_events_of_all_answers(gap: float) -> None:
    body = json.dumps({"model": PROVIDERS["messages"].model, "messages": [], "stream": True}).encode()
    async with upstream(Options(chunks=7, chunk_gap=gap)) as url:
        where = target(f"{url}/v1/messages", [body])
        result = await measure(where, clients=3, requests=6, streams=True, settle=0.01)
    # start, block start and ping; the chunks; block stop, delta and stop
    assert (result.events, result.errors) == (6 * (3 + 7 + 3), 0)
    assert result.cpu > 0


def test_the_self_test_covers_all_wire_formats() -> None:
    found = capacity(0.05) | streaming_capacity(0.05)
    assert all(found[f"{wire_format}_answers_per_second"] > 0 for wire_format in PROVIDERS)
    assert all(found[f"{wire_format}_chunks_per_second"] > STREAM_CHUNKS for wire_format in PROVIDERS)
