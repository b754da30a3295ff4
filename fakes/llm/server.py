"""A model provider for tests and laptops: a real server that speaks a wire format and does what it is told.

In a test, on the loop of the test:

    async with FakeProvider(FakeChat()) as fake:
        fake.script(error(429, headers={"Retry-After": "1"}), reply("Hello"))
        ...  # the first request gets the error, the second the reply, all further ones `fake.default`

From synchronous code `FakeProvider.start(wire)` serves from a thread until `close()`. `fake.url` is the base URL to
configure. Requests that the real provider would refuse are refused.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import msgspec
from aiohttp import web

from fakes.llm.behaviours import Behaviour, Exchange, reply
from fakes.llm.wire_format import FakeWireFormat


@dataclass(slots=True)
class FakeProvider:
    """A server of one wire format. `requests` are the exchanges so far, `default` is what it does without a script,
    `problems` what was wrong with requests that the real provider would have refused."""

    wire_format: FakeWireFormat
    default: Behaviour = field(default_factory=lambda: reply("Hello from the fake provider."))
    requests: list[Exchange] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    url: str = ""
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _script: deque[Behaviour] = field(default_factory=deque)
    _runner: web.ServerRunner | None = None
    _thread: threading.Thread | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    def script(self, *behaviours: Behaviour) -> None:
        """What to do with the next requests, one behaviour a request, after those already scripted."""
        self._script.extend(behaviours)

    async def arrived(self, count: int = 1, *, within: float = 5.0) -> Exchange:
        """Waits for this many requests and returns the last of them. Raises TimeoutError."""
        await self._until(lambda: len(self.requests) >= count, within)
        return self.requests[count - 1]

    async def disconnected(self, exchange: Exchange, *, within: float = 5.0) -> float:
        """Waits until the client has left that exchange early and returns when it did. Raises TimeoutError."""
        await self._until(lambda: exchange.disconnected is not None, within)
        return exchange.disconnected or 0.0

    async def _until(self, condition: Callable[[], bool], within: float) -> None:
        # A thread waits, because the server may run on another loop than the caller.
        def wait() -> bool:
            with self._changed:
                return self._changed.wait_for(condition, within)

        if not await asyncio.to_thread(wait):
            raise TimeoutError("the fake provider did not see what was awaited")

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    async def __aenter__(self) -> Self:
        await self._serve(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    @classmethod
    def start(cls, wire: FakeWireFormat, port: int = 0, *, default: Behaviour | None = None) -> FakeProvider:
        """A server on a thread of its own, already listening; `close()` ends it."""
        fake = cls(wire) if default is None else cls(wire, default=default)
        ready = threading.Event()
        fake._thread = threading.Thread(target=fake._run, args=(port, ready), name="fake-provider", daemon=True)
        fake._thread.start()
        ready.wait()
        if not fake.url:
            raise OSError(f"the fake provider cannot listen on port {port}")
        return fake

    def close(self) -> None:
        """Ends the thread of `start()` and every connection."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop = self._thread = None

    def _run(self, port: int, ready: threading.Event) -> None:
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            try:
                runner.run(self._serve(port))
                self._loop = loop
            finally:
                ready.set()
            loop.run_forever()
            runner.run(self._stop())

    async def _serve(self, port: int) -> None:
        # Without cancellation a handler would not notice that its client has left.
        self._runner = web.ServerRunner(
            web.Server(self._answer, handler_cancellation=True, access_log=None), shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        host, bound = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{bound}{self.wire_format.base_path}"

    async def _stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        raw = await request.content.read()
        if not self.wire_format.takes(request.path):
            return web.json_response(self.wire_format.error(404, "No such route"), status=404)
        body = msgspec.json.decode(raw)
        exchange = Exchange(request, self.wire_format, body, request.headers, _port(request), time.monotonic())
        self.requests.append(exchange)
        self._tell()
        if problem := self.wire_format.problem(request.headers, body):
            self.problems.append(problem[1])
            return web.json_response(self.wire_format.error(*problem), status=problem[0])
        behaviour = self._script.popleft() if self._script else self.default
        try:
            return await behaviour(exchange)
        except (asyncio.CancelledError, ConnectionError):
            exchange.disconnected = time.monotonic()
            raise
        finally:
            exchange.ended = time.monotonic()
            self._tell()


def _port(request: web.BaseRequest) -> int:
    peer = request.transport.get_extra_info("peername") if request.transport else None
    return int(peer[1]) if peer else 0
