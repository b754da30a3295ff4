"""Failures of every provider, over its own wire: the same error whatever the host says, and nobody left hanging."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import pytest

from clasper.core.model_ref import PROVIDERS
from clasper.gateways.llm.base import TextDelta
from clasper.gateways.llm.exchange import MAX_RESPONSE_BYTES
from clasper.gateways.llm.relax import relaxed_call
from fakes.llm import error, garbage, half_stream, raw, reply, reset, silence, stream_error
from tests.gateways.every_host import KEY, Behaves, Behaviours, Host, hosting

CANCEL_SECONDS = 0.25
"""Within which a provider must see that its answer is no longer wanted."""

TOO_LONG = {
    "anthropic": "prompt is too long: 210000 tokens > 200000 maximum",
    "gemini": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
}
"""How the hosts say that a conversation is too long; the others say OpenAI's sentence."""
OPENAI_TOO_LONG = (
    "This model's maximum context length is 128000 tokens. However, your messages resulted in 130000 tokens."
)

behaviour = Behaviours()


@behaviour
async def unauthorised(host: Host) -> None:
    failure = await host.fails_both(error(401, message=f"Incorrect API key provided: {KEY}"), "auth", status=401)
    assert (failure.retryable, failure.fallback) == (False, False)


@behaviour
async def rate_limited(host: Host) -> None:
    failure = await host.fails_both(error(429, headers={"Retry-After": "7"}), "rate_limited", status=429)
    assert (failure.retry_after, failure.retryable) == (7.0, True)


@behaviour
async def a_server_error_and_then_an_answer(host: Host) -> None:
    for status in (500, 502, 503, 529):
        failure = await host.fails_both(error(status), "unavailable", status=status)
        assert (failure.retryable, failure.fallback) == (True, True)
    assert (await host.both(reply("Back again."))).text == "Back again."


@behaviour
async def a_timeout(host: Host) -> None:
    for streaming in (False, True):
        began = time.monotonic()
        failure = await host.fails(silence(30, after_chunks=1), streaming=streaming, timeout=0.2)
        assert (failure.kind, failure.status) == ("timeout", None)
        assert time.monotonic() - began < 2
    host.provider = replace(host.provider, timeout=0.1)
    assert (await host.fails(silence(30), streaming=False)).kind == "timeout"


@behaviour
async def a_reset(host: Host) -> None:
    failure = await host.fails_both(reset(), "connection")
    assert (failure.retryable, failure.fallback) == (True, True)


@behaviour
async def refused(host: Host) -> None:
    host.fake.close()
    failure = await host.fails_both(reply("nobody says this"), "connection")
    assert failure.retryable


@behaviour
async def garbage_answers(host: Host) -> None:
    await host.fails_both(garbage(), "bad_response")
    for body in (b"", b"[]", b"null", b"{}", b'{"a":', b"\xff\xfe", b"[" * 100_000, b'"text"'):
        failure = await host.fails(raw(body), streaming=False)
        assert failure.kind == "bad_response", body[:20]


@behaviour
async def half_a_stream(host: Host) -> None:
    for abort in (True, False):
        failure = await host.fails(half_stream(3, abort=abort), streaming=True)
        assert failure.kind == "connection"
        assert failure.__notes__ == ["word0 word1 word2 "]
    assert (await host.fails(half_stream(0), streaming=False)).kind == "connection"


@behaviour
async def an_error_in_mid_stream(host: Host) -> None:
    failure = await host.fails(stream_error("One ", "two ", message="Overloaded"), streaming=True)
    assert failure.kind == "unavailable"
    assert failure.__notes__ == ["One two "]


@behaviour
async def an_unknown_model(host: Host) -> None:
    failure = await host.fails_both(error(404, message="The model m-1 is not found"), "unknown_model", status=404)
    assert (failure.retryable, failure.fallback) == (False, True)


@behaviour
async def a_context_too_long(host: Host) -> None:
    told = TOO_LONG.get(host.name, OPENAI_TOO_LONG)
    failure = await host.fails_both(error(400, message=told), "context_too_long", status=400)
    assert (failure.retryable, failure.fallback) == (False, True)


@behaviour
async def a_bad_request_says_why(host: Host) -> None:
    failure = await host.fails_both(
        error(400, message="temperature is not supported with this model"), "invalid_request", status=400
    )
    assert (failure.retryable, failure.fallback) == (False, False)
    cured = relaxed_call(host.call(temperature=0.4), failure)
    assert cured is not None
    assert cured.temperature is None


@behaviour
async def a_huge_answer(host: Host) -> None:
    for streaming in (False, True):
        failure = await host.fails(raw(b'{"x": "' + b"x" * MAX_RESPONSE_BYTES), streaming=streaming)
        assert failure.kind == "bad_response"


@behaviour
async def cancelling_hangs_up(host: Host) -> None:
    for streaming in (False, True):
        host.fake.script(silence(30, after_chunks=2))
        seen = len(host.fake.requests)
        task = asyncio.ensure_future(host.ask(streaming=streaming))
        exchange = await host.fake.arrived(seen + 1)
        await asyncio.sleep(0.05)
        cancelled = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await host.fake.disconnected(exchange) - cancelled < CANCEL_SECONDS


@behaviour
async def leaving_a_stream_hangs_up(host: Host) -> None:
    host.fake.script(silence(30, after_chunks=2))
    async with aclosing(host.provider.stream(host.call())) as events:
        assert await anext(events) == TextDelta("word0 ")
        left = time.monotonic()
    assert await host.fake.disconnected(await host.fake.arrived()) - left < CANCEL_SECONDS


@behaviour
async def a_connection_is_used_again(host: Host) -> None:
    for streaming in (False, True, False, True):
        await host.ask(streaming=streaming)
    assert len({exchange.client_port for exchange in host.fake.requests}) == 1


@pytest.fixture
async def host(request: pytest.FixtureRequest) -> AsyncIterator[Host]:
    async with hosting(request.param) as found:
        yield found


@pytest.mark.parametrize("host", PROVIDERS, indirect=True)
@pytest.mark.parametrize("behaves", behaviour, ids=[each.__name__ for each in behaviour])
async def test_every_provider_fails_the_same(behaves: Behaves, host: Host) -> None:
    await behaves(host)
