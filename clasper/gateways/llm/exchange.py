"""The HTTP exchange of every model provider: one request, one response or stream of events, on the shared session.

How calls and responses are written is decided by a `WireFormat`; this module handles deadlines, sizes, broken
connections and cancellation.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from aiohttp import ClientError, ClientResponse

from clasper.gateways.http import deadline, read_body, session
from clasper.gateways.llm.accumulator import StreamAccumulator
from clasper.gateways.llm.base import Completion, ModelCall, ProviderError, StreamEvent, TextDelta
from clasper.gateways.llm.failures import failure, network_failure, status_failure
from clasper.gateways.llm.wire_format import WireFormat

MAX_RESPONSE_BYTES = 4 * 1024 * 1024
"""Several times the longest answer of any model; a longer one would keep the process busy for seconds."""
MAX_STREAM_BYTES = 64 * 1024 * 1024
"""A chunk of a few letters takes some 350 bytes on the wire, so this is about 180,000 tokens."""
MAX_LINE_BYTES = 1024 * 1024
_MAX_ERROR_BYTES = 64 * 1024
_RAW_BODY_BYTES = 1024 * 1024
"""The HTTP client warns about larger bodies that are not file objects."""
_TAIL_SECONDS = 0.05
"""How long a finished stream may take to end its HTTP response before the connection is closed instead of reused."""

_OTHER_FIELDS = (b":", b"event:", b"id:", b"retry:")


@dataclass(frozen=True, slots=True)
class HttpProvider:
    """A provider that is reached over HTTP. Without an `api_key` no credentials are sent.

    `base_url` tells people where it is and distinguishes providers. `extra_headers` are sent with every request.
    `timeout` (seconds) bounds one exchange when the run leaves more. Key, headers and addresses must be valid in HTTP;
    the registry checks that.
    """

    wire_format: WireFormat
    api_key: str
    base_url: str
    extra_headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = float("inf")

    @property
    def name(self) -> str:
        return self.wire_format.provider

    async def complete(self, call: ModelCall) -> Completion:
        """The whole answer. Raises ProviderError."""
        response = await self._post(call, stream=False)
        try:
            return await self._whole(response, call)
        finally:
            response.close()

    async def stream(self, call: ModelCall) -> AsyncGenerator[StreamEvent, None]:
        """Text deltas, then the Completion. Raises ProviderError, also when the stream ends too early."""
        response = await self._post(call, stream=True)
        try:
            if response.content_type == "application/json":
                completion = await self._whole(response, call)
                if completion.text and completion.finish != "refusal":
                    yield TextDelta(completion.text)
                yield completion
                return
            accumulator, lines = self.wire_format.accumulator(call), _Lines(self.name)
            try:
                while not accumulator.done:
                    chunk = await self._next(response, accumulator)
                    if not chunk:
                        break
                    for payload in lines.feed(chunk):
                        text = accumulator.add(payload)
                        if text:
                            lines.count(text)
                            yield TextDelta(text)
                yield accumulator.completion()
            except ProviderError as error:
                error.usage = error.usage or accumulator.usage
                raise
            await _finish(response)
        finally:
            response.close()

    async def _post(self, call: ModelCall, *, stream: bool) -> ClientResponse:
        if call.timeout <= 0:
            raise failure("timeout", self.name)
        wire_format = self.wire_format
        body = wire_format.encode(call, stream=stream)
        headers = {"Content-Type": "application/json", **wire_format.headers(self.api_key), **self.extra_headers}
        try:
            response = await session().post(
                wire_format.address(call, stream=stream),
                data=body if len(body) <= _RAW_BODY_BYTES else io.BytesIO(body),
                headers=headers,
                timeout=deadline(min(call.timeout, self.timeout)),
                allow_redirects=False,
            )
        except (ClientError, TimeoutError, OSError) as error:
            raise network_failure(error, self.name) from error
        if response.status != 200:
            raise await self._refused(response)
        return response

    async def _refused(self, response: ClientResponse) -> ProviderError:
        body: bytes | None = b""
        try:
            with suppress(ClientError, TimeoutError, OSError):
                body = await read_body(response, _MAX_ERROR_BYTES)
        finally:
            response.close()
        error = status_failure(response.status, response.headers, body or b"", self.name)
        if self.api_key:
            error.detail = error.detail.replace(self.api_key, "[key]")
        return error

    async def _whole(self, response: ClientResponse, call: ModelCall) -> Completion:
        try:
            body = await read_body(response, MAX_RESPONSE_BYTES)
        except (ClientError, TimeoutError, OSError) as error:
            raise network_failure(error, self.name) from error
        if body is None:
            raise failure("bad_response", self.name, detail=f"more than {MAX_RESPONSE_BYTES} bytes")
        return self.wire_format.decode(body, call)

    async def _next(self, response: ClientResponse, accumulator: StreamAccumulator) -> bytes:
        try:
            return await response.content.readany()
        except (ClientError, TimeoutError, OSError) as error:
            if accumulator.finished:
                return b""
            raise network_failure(error, self.name) from error


class _Lines:
    """Splits the bytes of a stream into the payloads of its `data:` lines, and bounds its length."""

    __slots__ = ("_provider", "_remaining", "_rest", "_total")

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._rest = b""
        self._total = 0
        self._remaining = MAX_RESPONSE_BYTES

    def count(self, text: str) -> None:
        """Counts a piece of the answer. Raises ProviderError when it is longer than any model writes."""
        self._remaining -= len(text)
        if self._remaining < 0:
            raise failure("bad_response", self._provider, detail=f"over {MAX_RESPONSE_BYTES} characters")

    def feed(self, chunk: bytes) -> list[bytes]:
        self._total += len(chunk)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES or self._total > MAX_STREAM_BYTES:
            raise failure("bad_response", self._provider, detail="the stream or one of its lines is too long")
        return [payload for line in lines if (payload := self._payload(line))]

    def _payload(self, line: bytes) -> bytes:
        if line.startswith(b"data:"):
            return line[5:].strip()
        line = line.rstrip(b"\r")
        if line and not line.startswith(_OTHER_FIELDS):
            raise failure("bad_response", self._provider, detail=line[:200].decode("utf-8", "replace"))
        return b""


async def _finish(response: ClientResponse) -> None:
    """Reads the end of a response whose content is complete, so that its connection can serve the next call."""
    if not response.content.at_eof():
        with suppress(ClientError, TimeoutError, OSError):
            async with asyncio.timeout(_TAIL_SECONDS):
                while await response.content.readany():
                    pass
