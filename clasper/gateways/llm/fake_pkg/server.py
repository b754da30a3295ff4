"""A chat-completions host for tests and laptops: a real program behind a real socket that does what it is told.

In a test, on the loop of the test:

    async with FakeOpenAI() as fake:
        fake.script(error(429, headers={"Retry-After": "1"}), reply("Hello"))
        ...  # the first request meets the error, the second the answer, all further ones `fake.default`

From synchronous code `FakeOpenAI.start()` serves from a thread until `close()`. On its own:
`python -m clasper.gateways.llm.fake --port 9100`. `fake.url` is the base URL to configure.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import msgspec
from aiohttp import web

from clasper.gateways.llm.fake_behaviours import (
    Behaviour,
    Exchange,
    error,
    garbage,
    half_stream,
    raw,
    reply,
    reset,
    silence,
    tool_calls,
)

__all__ = [
    "Behaviour",
    "Exchange",
    "FakeOpenAI",
    "error",
    "garbage",
    "half_stream",
    "raw",
    "reply",
    "reset",
    "silence",
    "tool_calls",
]


@dataclass(slots=True)
class FakeOpenAI:
    """The host. `requests` are the exchanges so far, `default` is what it does when the script has run out."""

    default: Behaviour = field(default_factory=lambda: reply("Hello from the fake provider."))
    requests: list[Exchange] = field(default_factory=list)
    url: str = ""
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _script: deque[Behaviour] = field(default_factory=deque)
    _runner: web.ServerRunner | None = None
    _thread: threading.Thread | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    def script(self, *behaviours: Behaviour) -> None:
        """What to do with the next requests, one behaviour each, after those already waiting."""
        self._script.extend(behaviours)

    async def arrived(self, count: int = 1, *, within: float = 5.0) -> Exchange:
        """Waits for so many requests and returns the last of them. Raises TimeoutError."""
        await self._until(lambda: len(self.requests) >= count, within)
        return self.requests[count - 1]

    async def disconnected(self, exchange: Exchange, *, within: float = 5.0) -> float:
        """Waits until the client left that exchange early and returns the instant. Raises TimeoutError."""
        await self._until(lambda: exchange.disconnected is not None, within)
        return exchange.disconnected or 0.0

    async def _until(self, condition: Callable[[], bool], within: float) -> None:
        # A thread waits, because the host may live on another loop than the caller.
        def wait() -> bool:
            with self._changed:
                return self._changed.wait_for(condition, within)

        if not await asyncio.to_thread(wait):
            raise TimeoutError("the fake provider waited in vain")

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    async def __aenter__(self) -> Self:
        await self._serve(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    @classmethod
    def start(cls, port: int = 0, *, default: Behaviour | None = None) -> FakeOpenAI:
        """A host on a thread of its own, already listening; `close()` ends it."""
        fake = cls() if default is None else cls(default=default)
        ready = threading.Event()
        fake._thread = threading.Thread(target=fake._run, args=(port, ready), name="fake-openai", daemon=True)
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
        # Only so does a handler notice that its client has left.
        self._runner = web.ServerRunner(
            web.Server(self._answer, handler_cancellation=True, access_log=None), shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        host, bound = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{bound}/v1"

    async def _stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read()
        if request.path != "/v1/chat/completions":
            return web.json_response({"error": {"message": "No such route", "code": "not_found"}}, status=404)
        exchange = Exchange(request, msgspec.json.decode(body), request.headers, _port(request), time.monotonic())
        self.requests.append(exchange)
        self._tell()
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


def main() -> None:
    """Serves until interrupted."""
    parser = argparse.ArgumentParser(description="A fake chat-completions host.")
    parser.add_argument("--port", type=int, default=9100)
    parser.add_argument("--reply", default="Hello from the fake provider.")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer or chunk")
    options = parser.parse_args()
    fake = FakeOpenAI.start(options.port, default=reply(options.reply, delay=options.delay))
    sys.stdout.write(f"OPENAI_BASE_URL={fake.url}\n")
    sys.stdout.flush()
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        fake.close()


if __name__ == "__main__":
    main()
