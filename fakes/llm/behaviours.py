"""What a fake model provider can do with a request: answer, call tools, refuse, break, fall silent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from clasper.core.usage import Usage
from clasper.gateways.llm.base import Finish
from fakes.llm.wire_format import Answer, FakeWireFormat


@dataclass(slots=True)
class Exchange:
    """One request and what became of it; times are `time.monotonic()` seconds.

    Exchanges with the same `client_port` used the same connection. `disconnected` is set when the client left before
    the response was complete.
    """

    request: web.BaseRequest
    wire_format: FakeWireFormat
    body: dict[str, Any]
    headers: Mapping[str, str]
    client_port: int
    started: float
    chunks_sent: int = 0
    ended: float | None = None
    disconnected: float | None = None

    @property
    def wants_stream(self) -> bool:
        return self.wire_format.wants_stream(self.request.path_qs, self.body)

    @property
    def model(self) -> str:
        return self.wire_format.model(self.request.path, self.body)


Behaviour = Callable[["Exchange"], Awaitable[web.StreamResponse]]
"""What the provider does with one request."""


def reply(
    text: str,
    *,
    usage: Usage | Mapping[str, Any] | None = None,
    with_usage: bool = True,
    finish: Finish = "stop",
    model: str | None = None,
    delay: float = 0.0,
    calls: Sequence[tuple[str, str]] = (),
    thinking: str = "",
    call_ids: bool = True,
) -> Behaviour:
    """Answers with `text`, streamed word by word if the request wants a stream; `delay` seconds precede every chunk.

    `usage` replaces the counted tokens, `with_usage=False` leaves them out. `calls` are (name, arguments) pairs. See
    `Answer` for the rest.
    """

    async def answer(exchange: Exchange) -> web.StreamResponse:
        wire, body = exchange.wire_format, exchange.body
        counted = Usage(input=wire.prompt_tokens(body), output=max(1, len(text) // 4))
        meant = Answer(
            text=text,
            calls=calls,
            finish=finish,
            usage=(counted if usage is None else usage) if with_usage else None,
            model=model or exchange.model,
            thinking=thinking,
            call_ids=call_ids,
        )
        if exchange.wants_stream:
            return await _send_chunks(exchange, wire.chunks(meant), delay=delay)
        await asyncio.sleep(delay)
        return _json(200, wire.whole(meant))

    return answer


def tool_calls(
    *calls: tuple[str, str], text: str = "", usage: Usage | Mapping[str, Any] | None = None, **facts: Any
) -> Behaviour:
    """Calls tools: one call for each pair of a name and the raw text of its arguments."""
    return reply(text, calls=calls, finish="tool_calls", usage=usage, **facts)


def error(
    status: int,
    body: Mapping[str, Any] | str | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    message: str = "",
    code: str = "",
) -> Behaviour:
    """Answers with an error status and the format's error body, or another: a mapping as JSON, text as a page."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        if isinstance(body, str):
            return web.Response(text=body, status=status, content_type="text/html", headers=headers)
        content = (
            exchange.wire_format.error(status, message or f"fake error {status}", code=code) if body is None else body
        )
        return _json(status, content, headers)

    return answer


def stream_error(*words: str, message: str = "fake error", code: str = "") -> Behaviour:
    """Begins a stream with these words and then sends an error as an event; without a stream a plain 500."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        wire = exchange.wire_format
        if not exchange.wants_stream:
            return _json(500, wire.error(500, message, code=code))
        return await _send_chunks(exchange, [*wire.opening(words), wire.stream_error(message, code=code)])

    return answer


def raw(
    body: bytes,
    *,
    status: int = 200,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> Behaviour:
    """Answers with exactly these bytes, such as a recorded answer."""

    async def answer(_: Exchange) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers={"Content-Type": content_type, **(headers or {})})

    return answer


def garbage() -> Behaviour:
    """Answers 200 with something other than JSON; on a stream after one good chunk."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        if exchange.wants_stream:
            return await _send_chunks(exchange, [*exchange.wire_format.opening(["Hel"]), b"data: {not json\n\n"])
        return web.Response(text="<html><body>Bad gateway</body></html>", content_type="text/html")

    return answer


def half_stream(chunks: int, *, abort: bool = True) -> Behaviour:
    """Sends this many text chunks of a stream (or half a response), then breaks the connection.

    `abort=False` ends the HTTP response properly instead, without a finish reason.
    """

    async def answer(exchange: Exchange) -> web.StreamResponse:
        if not exchange.wants_stream:
            return await _send_half(exchange)
        response = await _send_chunks(exchange, exchange.wire_format.opening(_words(chunks)), end=not abort)
        if abort:
            _abort(exchange)
        return response

    return answer


def reset() -> Behaviour:
    """Breaks the connection instead of answering."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        _abort(exchange)
        return web.Response()

    return answer


def silence(seconds: float, *, after_chunks: int = 0) -> Behaviour:
    """Says nothing for this long, on a stream after `after_chunks` chunks, and then breaks the connection."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        response: web.StreamResponse = web.Response()
        if exchange.wants_stream and after_chunks:
            response = await _send_chunks(exchange, exchange.wire_format.opening(_words(after_chunks)), end=False)
        await asyncio.sleep(seconds)
        _abort(exchange)
        return response

    return answer


async def _send_chunks(
    exchange: Exchange, chunks: Sequence[bytes], *, delay: float = 0.0, end: bool = True
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(exchange.request)
    for chunk in chunks:
        if delay:
            await asyncio.sleep(delay)
        await response.write(chunk)
        exchange.chunks_sent += 1
    if end:
        await response.write_eof()
    return response


async def _send_half(exchange: Exchange) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
    await response.prepare(exchange.request)
    await response.write(msgspec.json.encode(exchange.wire_format.whole(Answer(text="Half of it")))[:20])
    _abort(exchange)
    return response


def _abort(exchange: Exchange) -> None:
    transport = exchange.request.transport
    if transport is not None:
        # What was written is still sent; only the end of the response is missing.
        transport.close()


def _words(count: int) -> list[str]:
    return [f"word{n} " for n in range(count)]


def _json(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body), status=status, headers={"Content-Type": "application/json", **(headers or {})}
    )
