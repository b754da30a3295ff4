"""The base of the HTTP endpoints on the event loop: runs and streams.

They are not Django views because a thread hop would cost more than the rest of a run. A consumer bypasses Django's
middleware, so body limit and error body are applied here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from channels.generic.http import AsyncHttpConsumer
from django.conf import settings

from clasper.core.errors import BodyTooLarge, ClasperError, InvalidRequest, MethodNotAllowed, UnsupportedMediaType
from clasper.core.http import MALFORMED, decode_json, error_body, error_headers, max_body_bytes, public_error

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

JSON_TYPE = (b"content-type", b"application/json")


@dataclass(frozen=True, slots=True)
class Request:
    """A request: headers by lower-case name, the raw body, the query's parameters."""

    headers: dict[str, str]
    body: bytes
    query: dict[str, str]

    def json(self) -> dict[str, Any]:
        """The JSON object of the body. Raises UnsupportedMediaType or InvalidRequest."""
        kind = self.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            raise UnsupportedMediaType()
        value = decode_json(self.body)
        if not isinstance(value, dict):
            raise InvalidRequest(form_errors=["Expected a JSON object."])
        return value


class ApiConsumer(AsyncHttpConsumer):
    """One request. `handle_request` does the work, and is cancelled when the client leaves.

    Work inside Channels' own `handle` would not notice that, because it keeps the message loop busy; here a watcher
    waits for the disconnect.
    """

    methods: tuple[str, ...] = ("POST",)
    started = False
    finished = False
    _client_left = False

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self.scope = scope
        self.base_send = send
        body, complete = await _read_body(receive)
        if not complete and body is not None:
            return
        work = asyncio.current_task()
        assert work is not None
        watcher = asyncio.ensure_future(self._cancel_on_disconnect(receive, work))
        try:
            await self._serve(body)
        except asyncio.CancelledError:
            if not self._client_left:
                raise
            work.uncancel()
        finally:
            watcher.cancel()

    async def _cancel_on_disconnect(self, receive: Receive, work: asyncio.Task[Any]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        # The server also reports a disconnect once the response is complete.
        if not self.finished:
            self._client_left = True
            work.cancel()

    async def send(self, message: dict[str, Any]) -> None:
        await self.base_send(message)

    async def send_part(self, data: bytes, *, more: bool) -> None:
        """Sends a piece of the body; `more` is False for the last one."""
        self.finished = not more
        await self.base_send({"type": "http.response.body", "body": data, "more_body": more})

    async def handle_request(self, request: Request) -> None:
        """Answers the request; any exception becomes the one error body."""
        raise NotImplementedError

    async def on_stream_error(self, error: ClasperError) -> None:
        """Called instead of an error response when the response has already begun."""

    async def _serve(self, body: bytes | None) -> None:
        try:
            if self.scope["method"] not in self.methods:
                raise MethodNotAllowed()
            if body is None:
                raise BodyTooLarge()
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self.scope["headers"]}
            await self.handle_request(Request(headers, body, _read_query(self.scope["query_string"])))
        except Exception as error:
            public = public_error(error)
            if self.started:
                await self.on_stream_error(public)
            else:
                allow = {"Allow": ", ".join(self.methods)} if isinstance(public, MethodNotAllowed) else {}
                await self.send_json(public.status, error_body(public), {**error_headers(public), **allow})

    async def send_json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        """Sends a whole JSON response."""
        data = msgspec.json.encode(body)
        length = (b"content-length", str(len(data)).encode())
        others = ((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items())
        await self.start(status, [JSON_TYPE, length, *others])
        await self.send_part(data, more=False)

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Sends the response's status and headers; from here on errors can no longer change them."""
        self.started = True
        await self.send({"type": "http.response.start", "status": status, "headers": headers})


def limited(application: Any) -> Any:
    """An ASGI application with the body limit before it: Django itself would write a body of any size to disk first."""

    async def within_limit(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        body, complete = await _read_body(receive)
        if body is None:
            error = BodyTooLarge()
            await send({"type": "http.response.start", "status": error.status, "headers": [JSON_TYPE]})
            await send({"type": "http.response.body", "body": msgspec.json.encode(error_body(error))})
        elif complete:
            messages = [{"type": "http.request", "body": body, "more_body": False}]

            async def replay() -> dict[str, Any]:
                return messages.pop() if messages else await receive()

            await application(scope, replay, send)

    return within_limit


def _read_query(text: bytes) -> dict[str, str]:
    """The query's parameters, at most as many as Django accepts. Raises InvalidRequest."""
    try:
        fields = parse_qsl(
            text.decode("latin-1"), keep_blank_values=True, max_num_fields=settings.DATA_UPLOAD_MAX_NUMBER_FIELDS
        )
    except ValueError as error:
        raise InvalidRequest(MALFORMED) from error
    return dict(fields)


async def _read_body(receive: Receive) -> tuple[bytes | None, bool]:
    """The body and whether it arrived whole; None when it is over the limit (the rest is left unread)."""
    limit = max_body_bytes()
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"", False
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            return None, False
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts), True
