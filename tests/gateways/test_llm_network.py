"""What the network and a dying host can do to a model call, and that nothing hangs, leaks or goes on unpaid for."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from yarl import URL

from clasper.gateways.http import close_session, session
from clasper.gateways.llm.base import Completion, Message, ModelCall, ProviderError, TextDelta
from clasper.gateways.llm.exchange import HttpProvider
from clasper.gateways.llm.openai_chat import ChatFormat
from clasper.gateways.llm.openai_chat.dialects import COMPATIBLE
from fakes.llm import (
    Behaviour,
    FakeChat,
    FakeProvider,
    error,
    garbage,
    half_stream,
    reply,
    reset,
    silence,
    tool_calls,
)

CANCEL_SECONDS = 0.25
"""Within which a provider must see that its answer is no longer wanted."""


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(FakeChat()) as host:
        yield host
        await close_session()


def client(url: str) -> HttpProvider:
    return HttpProvider(ChatFormat("openai", URL(f"{url}/chat/completions"), COMPATIBLE), "key", "")


def question(timeout: float = 5.0) -> ModelCall:
    return ModelCall(model="m", messages=(Message("user", "Hi"),), max_output_tokens=100, timeout=timeout)


async def ask(provider: HttpProvider, call: ModelCall, *, streaming: bool) -> tuple[list[str], Completion | None]:
    """The deltas so far are in the exception's notes when a stream breaks."""
    if not streaming:
        return [], await provider.complete(call)
    deltas: list[str] = []
    try:
        completion = None
        async for event in provider.stream(call):
            if isinstance(event, Completion):
                completion = event
            else:
                deltas.append(event.text)
    except ProviderError as failure:
        failure.add_note("".join(deltas))
        raise
    return deltas, completion


FAULTS: list[tuple[str, Behaviour, str, int | None, bool, bool]] = [
    ("reset", reset(), "connection", None, True, True),
    ("401", error(401), "auth", 401, False, False),
    ("429", error(429, headers={"Retry-After": "3"}), "rate_limited", 429, True, True),
    ("500", error(500), "unavailable", 500, True, True),
    ("garbage", garbage(), "bad_response", None, True, True),
    ("half", half_stream(2), "connection", None, True, True),
    ("silence", silence(30), "timeout", None, True, True),
]


@pytest.mark.parametrize("streaming", [False, True], ids=["complete", "stream"])
@pytest.mark.parametrize(
    ("fault", "kind", "status", "retryable", "fallback"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS]
)
async def test_every_failure_has_one_name(
    fake: FakeProvider,
    fault: Behaviour,
    kind: str,
    status: int | None,
    retryable: bool,
    fallback: bool,
    streaming: bool,
) -> None:
    fake.script(fault)
    with pytest.raises(ProviderError) as caught:
        await ask(client(fake.url), question(0.3 if kind == "timeout" else 5.0), streaming=streaming)
    found = caught.value
    assert (found.kind, found.status) == (kind, status)
    assert (found.retryable, found.fallback) == (retryable, fallback)
    assert found.retry_after == (3.0 if status == 429 else None)
    # The provider has recovered, and so has the client.
    _, completion = await ask(client(fake.url), question(), streaming=streaming)
    assert completion is not None
    assert completion.text == "Hello from the fake provider."


@pytest.mark.parametrize("streaming", [False, True], ids=["complete", "stream"])
async def test_a_refused_connection(streaming: bool) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(ProviderError) as caught:
            await ask(client(url), question(), streaming=streaming)
    assert (caught.value.kind, caught.value.retryable, caught.value.status) == ("connection", True, None)
    await close_session()


@pytest.mark.parametrize("streaming", [False, True], ids=["complete", "stream"])
async def test_a_host_that_does_not_speak_http(streaming: bool) -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ProviderError) as caught:
            await ask(client(f"http://127.0.0.1:{port}/v1"), question(), streaming=streaming)
        await close_session()
    assert caught.value.kind in ("bad_response", "connection")
    assert caught.value.retryable


@pytest.mark.parametrize("abort", [True, False], ids=["broken", "ended"])
async def test_what_came_of_half_a_stream_was_delivered(fake: FakeProvider, abort: bool) -> None:
    fake.script(half_stream(3, abort=abort))
    with pytest.raises(ProviderError) as caught:
        await ask(client(fake.url), question(), streaming=True)
    assert caught.value.kind == "connection"
    assert caught.value.__notes__ == ["word0 word1 word2 "]


async def test_a_stream_that_falls_silent_ends_with_the_deadline(fake: FakeProvider) -> None:
    fake.script(silence(30, after_chunks=2))
    began = time.monotonic()
    with pytest.raises(ProviderError) as caught:
        await ask(client(fake.url), question(0.3), streaming=True)
    assert time.monotonic() - began < 1.5
    assert caught.value.kind == "timeout"
    assert caught.value.__notes__ == ["word0 word1 "]
    await fake.disconnected(fake.requests[0])


async def test_a_stream_that_trickles_ends_with_the_deadline_too(fake: FakeProvider) -> None:
    fake.script(reply("word " * 200, delay=0.02))
    with pytest.raises(ProviderError) as caught:
        await ask(client(fake.url), question(0.3), streaming=True)
    assert caught.value.kind == "timeout"


@pytest.mark.parametrize("timeout", [0.0, -1.0])
@pytest.mark.parametrize("streaming", [False, True], ids=["complete", "stream"])
async def test_without_time_nothing_is_sent(fake: FakeProvider, timeout: float, streaming: bool) -> None:
    with pytest.raises(ProviderError) as caught:
        await ask(client(fake.url), question(timeout), streaming=streaming)
    assert caught.value.kind == "timeout"
    assert not fake.requests


async def test_a_cancelled_stream_is_hung_up_at_once(fake: FakeProvider) -> None:
    fake.script(reply("word " * 1000, delay=0.01))
    first = asyncio.Event()

    async def read() -> None:
        async with aclosing(client(fake.url).stream(question())) as events:
            async for event in events:
                assert isinstance(event, TextDelta)
                first.set()

    reading = asyncio.create_task(read())
    await first.wait()
    left = time.monotonic()
    reading.cancel()
    seen = await fake.disconnected(fake.requests[0])
    assert seen - left <= CANCEL_SECONDS
    assert fake.requests[0].chunks_sent < 100
    with pytest.raises(asyncio.CancelledError):
        await reading


@pytest.mark.parametrize("behaviour", [silence(30), reply("late", delay=30)], ids=["no headers", "slow answer"])
async def test_a_cancelled_call_is_hung_up_at_once(fake: FakeProvider, behaviour: Behaviour) -> None:
    fake.script(behaviour)
    asking = asyncio.create_task(client(fake.url).complete(question()))
    exchange = await fake.arrived()
    left = time.monotonic()
    asking.cancel()
    assert await fake.disconnected(exchange) - left <= CANCEL_SECONDS
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_stream_left_early_is_hung_up_at_once(fake: FakeProvider) -> None:
    fake.script(reply("word " * 1000, delay=0.01))
    async with aclosing(client(fake.url).stream(question())) as events:
        async for _ in events:
            break
        left = time.monotonic()
    assert await fake.disconnected(fake.requests[0]) - left <= CANCEL_SECONDS


async def test_a_slow_reader_holds_the_provider_back(fake: FakeProvider) -> None:
    words = 20_000
    fake.script(reply("w" * 500 + (" " + "w" * 500) * words))
    async with aclosing(client(fake.url).stream(question())) as events:
        async for _ in events:
            break
        await asyncio.sleep(0.1)
        assert fake.requests[0].chunks_sent < words
    await fake.disconnected(fake.requests[0])


async def test_connections_are_used_again(fake: FakeProvider) -> None:
    fake.script(reply("one"), reply("two"), tool_calls(("a", "{}"), ("b", '{"x":1}')), error(500), reply("five"))
    provider = client(fake.url)
    await provider.complete(question())
    assert (await ask(provider, question(), streaming=True))[0] == ["two"]
    _, completion = await ask(provider, question(), streaming=True)
    assert completion is not None
    assert [(call.name, call.arguments) for call in completion.tool_calls] == [("a", "{}"), ("b", '{"x":1}')]
    with pytest.raises(ProviderError):
        await provider.complete(question())
    await provider.complete(question())
    assert len(fake.requests) == 5
    assert len({exchange.client_port for exchange in fake.requests}) == 1


async def test_many_calls_at_once(fake: FakeProvider) -> None:
    provider = client(fake.url)
    answers = await asyncio.gather(*(ask(provider, question(), streaming=n % 2 == 0) for n in range(64)))
    assert all(answer is not None and answer.finish == "stop" for _, answer in answers)


async def test_a_loop_has_one_session_until_it_is_closed() -> None:
    first = session()
    assert session() is first
    await close_session()
    assert first.closed
    second = session()
    assert second is not first
    await close_session()
    await close_session()


def test_every_loop_has_its_own_session() -> None:
    async def one() -> int:
        found = id(session())
        await close_session()
        return found

    async def both() -> bool:
        mine = session()
        await asyncio.to_thread(asyncio.run, one())
        is_open = not mine.closed
        await close_session()
        return is_open

    assert asyncio.run(both())


def test_the_fake_serves_from_a_thread() -> None:
    fake = FakeProvider.start(FakeChat())
    try:
        fake.script(reply("from a thread"))

        async def one() -> str:
            completion = await client(fake.url).complete(question())
            await close_session()
            return completion.text

        assert asyncio.run(one()) == "from a thread"
        assert fake.requests[0].body["model"] == "m"
    finally:
        fake.close()
