"""The load generator: POSTs JSON over keep-alive connections and reports statuses and latencies.

    python -m benchmarks.load http://127.0.0.1:8081/api/agents/send --clients 32 --seconds 5 --body-file send.json
    python -m benchmarks.load URL --rate 500 --seconds 10 ...      (open loop: requests start on time, ready or not)
    python -m benchmarks.load URL --sse ...                        (counts the events of each stream)

prints one JSON object. A body file of several lines holds one body a line, used in turn. Closed loop: each client sends
its next request when the last is answered; for throughput and CPU figures. Open loop: latency counts from the moment a
request was due, so that a server that stalls cannot hide it; for latency figures.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httptools
import uvloop

DRAIN_SECONDS = 30.0
"""How long answers are awaited after the last request was sent; what is missing then counts as an error."""


@dataclass(slots=True)
class Result:
    """`requests` and `statuses` count everything; the rate and the latencies (ms) only what began after settling.

    `events` (of all answers) and `first_event_ms` are filled for streams only. `cpu` is what the generator itself used.
    """

    requests: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    rps: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    errors: int = 0
    latency_ms: dict[str, float] = field(default_factory=dict)
    events: int = 0
    first_event_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send what: the address and the rendered requests, sent in turn."""

    host: str
    port: int
    requests: tuple[bytes, ...]


def target(url: str, bodies: Sequence[bytes], headers: Mapping[str, str] | None = None) -> Target:
    """The target for POSTing `bodies` as JSON to `url` (http only)."""
    parts = urlsplit(url)
    path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    rendered = tuple(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies)
    return Target(parts.hostname or "127.0.0.1", parts.port or 80, rendered)


class _Client(asyncio.Protocol):
    """One connection: sends a request, and calls back when its answer is complete or the connection broke."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._loop = asyncio.get_running_loop()
        self._busy = False
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def send(self, request: bytes, due: float) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._due, self._first, self._events, self._last = due, 0.0, 0, b""
        self._busy = True
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        if self._load.streams:
            self._first = self._first or time.perf_counter()
            self._events += body.count(b"\n\n") + (self._last == b"\n" and body.startswith(b"\n"))
            self._last = body[-1:]

    def on_message_complete(self) -> None:
        self._busy = False
        keep = self._parser.should_keep_alive()
        if not keep:
            self.closed = True
            self.transport.close()
        self._load.answered(self, self._parser.get_status_code(), self._due, self._first, self._events)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._busy:
            self._busy = False
            self._load.failed(self)


class _Load:
    """The books of one measurement, and the two ways to drive it."""

    def __init__(self, where: Target, *, streams: bool, settle: float = 0.0) -> None:
        self.streams = streams
        self._settle = settle
        self._settled_at = 0.0
        self._where = where
        self._requests: Iterator[bytes] = itertools.cycle(where.requests)
        self._loop = asyncio.get_running_loop()
        self._latencies: list[float] = []
        self._firsts: list[float] = []
        self._statuses: Counter[str] = Counter()
        self._errors = self._events = self._open = self._answered = 0
        self._idle: deque[_Client] = deque()
        self._due: deque[float] = deque()
        self._left = 0
        self._until = float("inf")
        self._closed_loop = True
        self._done = asyncio.Event()
        self._clients: list[_Client] = []

    async def connect(self) -> _Client:
        """Opens one more connection."""
        _, client = await self._loop.create_connection(lambda: _Client(self), self._where.host, self._where.port)
        self._clients.append(client)
        return client

    async def run_closed(self, *, seconds: float, requests: int) -> None:
        self._closed_loop = True
        self._left = requests or 10**12
        self._until = time.perf_counter() + seconds if not requests else float("inf")
        self._settled_at = time.perf_counter() + self._settle
        for number, client in enumerate(list(self._clients)):
            # Clients that all begin at once would stay in step for ever, as no real ones do.
            self._loop.call_later(self._settle * number / len(self._clients), self._next, client)
        await self._wait(DRAIN_SECONDS + (seconds if not requests else 3600))

    async def run_open(self, *, rate: float, seconds: float) -> None:
        self._closed_loop = False
        self._idle.extend(self._clients)
        start = time.perf_counter()
        self._settled_at = start + self._settle
        total = int(rate * seconds)
        self._left = total
        for number in range(total):
            due = start + number / rate
            pause = due - time.perf_counter()
            if pause > 0:
                await asyncio.sleep(pause)
            elif number % 16 == 0:
                await asyncio.sleep(0)
            if self._idle:
                self._start(self._idle.popleft(), due)
            else:
                self._due.append(due)
        if self._open or self._due:
            await self._wait(DRAIN_SECONDS)

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._done.wait(), seconds)
        except TimeoutError:
            self._errors += self._open + len(self._due)

    def _start(self, client: _Client, due: float) -> None:
        self._left -= 1
        self._open += 1
        client.send(next(self._requests), due)

    def _next(self, client: _Client) -> None:
        """The connection is free: sends what is due on it, or notes that all is done."""
        now = time.perf_counter()
        if client.closed:
            if self._left > 0 and now < self._until:
                self._replacing = self._loop.create_task(self._replace())
        elif self._closed_loop:
            if self._left > 0 and now < self._until:
                self._start(client, now)
        elif self._due:
            self._start(client, self._due.popleft())
        else:
            self._idle.append(client)
        if not self._open and not self._due and (self._left <= 0 or now >= self._until):
            self._done.set()

    async def _replace(self) -> None:
        try:
            client = await self.connect()
        except OSError:
            self._errors += 1
            self._done.set()
        else:
            self._next(client)

    def answered(self, client: _Client, status: int, due: float, first: float, events: int) -> None:
        self._open -= 1
        self._statuses[str(status)] += 1
        self._answered += 1
        self._events += events
        if due >= self._settled_at:
            self._latencies.append(time.perf_counter() - due)
            if self.streams:
                self._firsts.append(first - due)
        self._next(client)

    def failed(self, client: _Client) -> None:
        self._open -= 1
        self._errors += 1
        self._next(client)

    def close(self) -> None:
        for client in self._clients:
            client.transport.abort()

    def result(self, seconds: float, span: float) -> Result:
        """What was found in `seconds`; requests were begun for `span` of them."""
        return Result(
            requests=self._answered,
            seconds=round(seconds, 4),
            rps=round(len(self._latencies) / max(span - self._settle, 1e-9), 1),
            statuses=dict(self._statuses),
            errors=self._errors,
            latency_ms=percentiles(self._latencies),
            events=self._events,
            first_event_ms=percentiles(self._firsts),
        )


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and max in milliseconds (nearest rank); empty without values."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    ranks = {"p50": 0.50, "p95": 0.95, "p99": 0.99, "max": 1.0}
    last = len(ordered) - 1
    return {
        name: round(ordered[min(last, max(0, -int(-rank * len(ordered) // 1) - 1))] * 1000, 3)
        for name, rank in ranks.items()
    }


async def measure(
    where: Target,
    *,
    clients: int,
    seconds: float = 0.0,
    requests: int = 0,
    rate: float = 0.0,
    streams: bool = False,
    settle: float = 0.0,
) -> Result:
    """One measurement: an open loop at `rate` a second if that is given, else closed for `requests` or `seconds`.

    Over the first `settle` seconds the clients of a closed loop begin one after the other, and nothing is timed.
    """
    load = _Load(where, streams=streams, settle=settle)
    for _ in range(clients):
        await load.connect()
    started, cpu = time.perf_counter(), time.process_time()
    try:
        if rate:
            await load.run_open(rate=rate, seconds=seconds)
        else:
            await load.run_closed(seconds=seconds, requests=requests)
        took = time.perf_counter() - started
        found = load.result(took, took if requests else seconds)
        found.cpu = round(time.process_time() - cpu, 4)
        return found
    finally:
        load.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=32, help="connections; the most requests in flight")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--requests", type=int, default=0, help="closed loop: send this many instead of for --seconds")
    parser.add_argument("--rate", type=float, default=0.0, help="open loop: requests a second")
    parser.add_argument("--settle", type=float, default=0.0, help="seconds at the start in which nothing is timed")
    parser.add_argument("--body-file", type=Path, required=True, help="JSON, or several JSON documents, one a line")
    parser.add_argument("--header", action="append", default=[], metavar="NAME: VALUE")
    parser.add_argument("--sse", action="store_true", help="answers are event streams; count their events")
    given = parser.parse_args()
    headers = {name.strip(): value.strip() for name, _, value in (text.partition(":") for text in given.header)}
    where = target(given.url, bodies_of(given.body_file.read_bytes()), headers)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(
            measure(
                where,
                clients=given.clients,
                seconds=given.seconds,
                requests=given.requests,
                rate=given.rate,
                streams=given.sse,
                settle=given.settle,
            )
        )
    print(json.dumps(asdict(result)))


def bodies_of(content: bytes) -> list[bytes]:
    """The bodies in a file: one document, however it is laid out, or one a line."""
    try:
        json.loads(content)
    except ValueError:
        return [line for line in content.splitlines() if line.strip()]
    return [content.strip()]


if __name__ == "__main__":
    main()
