"""What the fake chat-completions host can do with a request: answer, want tools, refuse, break, fall silent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web


@dataclass(slots=True)
class Exchange:
    """One request and what became of it; instants are `time.monotonic()` seconds.

    Exchanges with the same `client_port` came over the same connection. `disconnected` is set when the client left
    before the answer was complete.
    """

    request: web.BaseRequest
    body: dict[str, Any]
    headers: Mapping[str, str]
    client_port: int
    started: float
    chunks_sent: int = 0
    ended: float | None = None
    disconnected: float | None = None

    @property
    def wants_stream(self) -> bool:
        return bool(self.body.get("stream"))


Behaviour = Callable[["Exchange"], Awaitable[web.StreamResponse]]
"""What the host does with one request."""


def reply(
    text: str,
    *,
    usage: Mapping[str, Any] | None = None,
    with_usage: bool = True,
    finish: str = "stop",
    model: str | None = None,
    delay: float = 0.0,
    calls: Sequence[tuple[str, str]] = (),
) -> Behaviour:
    """Answers with `text`, streamed word by word if the request wants a stream; `delay` seconds go before each chunk.

    `usage` replaces the counted tokens, `with_usage=False` leaves them out. `calls` are (name, arguments) pairs.
    """

    async def answer(exchange: Exchange) -> web.StreamResponse:
        chosen = model or str(exchange.body.get("model", ""))
        tokens = dict(usage or _tokens(exchange.body, text)) if with_usage else None
        if exchange.wants_stream:
            return await _send_chunks(exchange, _chunks(text, calls, finish, chosen, tokens), delay=delay)
        await asyncio.sleep(delay)
        message: dict[str, Any] = {"role": "assistant", "content": text or None, "refusal": None}
        if calls:
            message["tool_calls"] = [_call(n, name, arguments) for n, (name, arguments) in enumerate(calls)]
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
        body = {"id": "chatcmpl-fake", "object": "chat.completion", "model": chosen, "choices": [choice]}
        return _json(200, body if tokens is None else {**body, "usage": tokens})

    return answer


def tool_calls(*calls: tuple[str, str], text: str = "", usage: Mapping[str, Any] | None = None) -> Behaviour:
    """Wants tools: one call for each pair of a name and the raw text of its arguments."""
    return reply(text, calls=calls, finish="tool_calls", usage=usage)


def error(
    status: int,
    body: Mapping[str, Any] | str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Behaviour:
    """Answers with an error status; without a body, with an error object that says the status."""
    content = {"error": {"message": f"fake error {status}", "type": "fake", "code": None}} if body is None else body
    if isinstance(content, str):
        return raw(content.encode(), status=status, content_type="text/html", headers=headers)
    return raw(msgspec.json.encode(content), status=status, headers=headers)


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
    """Answers 200 with what is no JSON; on a stream after one good chunk."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        if exchange.wants_stream:
            return await _send_chunks(exchange, [_chunk({"content": "Hel"}), b"data: {not json\n\n"])
        return web.Response(text="<html><body>Bad gateway</body></html>", content_type="text/html")

    return answer


def half_stream(chunks: int, *, abort: bool = True) -> Behaviour:
    """Sends so many text chunks of a stream (or half an answer), then the connection breaks.

    `abort=False` ends the HTTP answer properly instead, without a finish reason.
    """

    async def answer(exchange: Exchange) -> web.StreamResponse:
        if not exchange.wants_stream:
            return await _send_half(exchange)
        words = [_chunk({"content": f"word{n} "}) for n in range(chunks)]
        response = await _send_chunks(exchange, words, end=not abort)
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
    """Says nothing for so long, on a stream after so many chunks, and then breaks the connection."""

    async def answer(exchange: Exchange) -> web.StreamResponse:
        response: web.StreamResponse = web.Response()
        if exchange.wants_stream and after_chunks:
            words = [_chunk({"content": f"word{n} "}) for n in range(after_chunks)]
            response = await _send_chunks(exchange, words, end=False)
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
    await response.write(b'{"choices": [{"message": {"content": "Hal')
    _abort(exchange)
    return response


def _abort(exchange: Exchange) -> None:
    transport = exchange.request.transport
    if transport is not None:
        # What was written leaves first; the answer stays without its end.
        transport.close()


def _chunks(
    text: str, calls: Sequence[tuple[str, str]], finish: str, model: str, usage: Mapping[str, Any] | None
) -> list[bytes]:
    words = [word + " " for word in text.split(" ")]
    words[-1] = words[-1][:-1]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": word} for word in words if word]
    for n, (name, arguments) in enumerate(calls):
        deltas.append({"tool_calls": [{"index": n, **_call(n, name, "")}]})
        middle = len(arguments) // 2
        for piece in (arguments[:middle], arguments[middle:]):
            deltas.append({"tool_calls": [{"index": n, "function": {"arguments": piece}}]})
    chunks = [*(_chunk(delta, model=model) for delta in deltas), _chunk({}, finish=finish, model=model)]
    if usage is not None:
        chunks.append(_event({"object": "chat.completion.chunk", "model": model, "choices": [], "usage": usage}))
    return [*chunks, b"data: [DONE]\n\n"]


def _chunk(delta: Mapping[str, Any], *, finish: str | None = None, model: str = "fake") -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _event({"id": "chatcmpl-fake", "object": "chat.completion.chunk", "model": model, "choices": [choice]})


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def _call(n: int, name: str, arguments: str) -> dict[str, Any]:
    return {"id": f"call_fake_{n}", "type": "function", "function": {"name": name, "arguments": arguments}}


def _tokens(body: Mapping[str, Any], text: str) -> dict[str, int]:
    prompt, completion = len(msgspec.json.encode(body.get("messages", []))) // 4, max(1, len(text) // 4)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _json(status: int, body: Mapping[str, Any]) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")
