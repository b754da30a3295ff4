"""What the fake upstream can serve: it must be far from the limit whenever a server is measured against it.

A client that costs next to nothing keeps one connection full of rendered requests, so that the upstream's process is
the only thing that is busy.
"""

from __future__ import annotations

import json
import socket
import time

import httptools

from benchmarks import processes
from benchmarks.answers import CHAT_PATH, GEMINI_PATH, MESSAGES_PATH, PROVIDERS
from benchmarks.watch import cpu_seconds

FACTOR = 20
"""How much more than anything measured the upstream must be able to serve."""
STREAM_CHUNKS = 200
_PIPELINED = 200
_PIPELINED_STREAMS = 20
_SECONDS = 1.0
_PROMPT_BYTES = 5000
_PATIENCE = 10.0
"""Seconds in which an upstream that works has answered."""


def capacity(seconds: float = _SECONDS) -> dict[str, float]:
    """Answers in each wire format, task lists and messages a second, and the CPU of a whole send in µs.

    A send is an answer in the most expensive wire format, a list and a message.
    """
    others = {
        "task_lists": _request("GET", "/api/mission-control/tasks?limit=50", ""),
        "posts": _request("POST", "/api/mission-control/messages", json.dumps({"content": "x" * 400})),
    }
    with processes.running("benchmarks.upstream") as (pid, port):
        cpu: dict[str, float] = {}
        found: dict[str, float] = {}
        for name, request in {**{wire_format: _question(wire_format) for wire_format in PROVIDERS}, **others}.items():
            before = cpu_seconds([pid])
            served, took = _flood(port, request, seconds, _PIPELINED)
            cpu[name] = (cpu_seconds([pid]) - before) / served
            found[f"{name}_answers_per_second" if name in PROVIDERS else f"{name}_per_second"] = served / took
    send = max(cpu[name] for name in PROVIDERS) + sum(cpu[name] for name in others)
    return {**found, "cpu_us_per_send": send * 1e6, "sends_per_second": 1 / max(send, 1e-9)}


def streaming_capacity(seconds: float = _SECONDS) -> dict[str, float]:
    """Chunks a second of streams in each wire format that are written at once."""
    with processes.running("benchmarks.upstream", "--chunks", str(STREAM_CHUNKS), "--chunk-chars", "4") as (_, port):
        found: dict[str, float] = {}
        for name in PROVIDERS:
            served, took = _flood(port, _question(name, stream=True), seconds, _PIPELINED_STREAMS)
            found[f"{name}_chunks_per_second"] = served * STREAM_CHUNKS / took
    return found


def _question(wire_format: str, *, stream: bool = False) -> bytes:
    """A question as long as Clasper's, addressed as the wire format wants it; the upstream ignores the rest."""
    said, model = "x" * _PROMPT_BYTES, PROVIDERS[wire_format].model
    if wire_format == "gemini":
        method = "streamGenerateContent?alt=sse" if stream else "generateContent"
        path = f"{GEMINI_PATH.decode()}{model}:{method}"
        return _request("POST", path, json.dumps({"contents": [{"role": "user", "parts": [{"text": said}]}]}))
    body = {"model": model, "messages": [{"role": "user", "content": said}], **({"stream": True} if stream else {})}
    return _request("POST", (CHAT_PATH if wire_format == "chat" else MESSAGES_PATH).decode(), json.dumps(body))


def _request(method: str, path: str, body: str) -> bytes:
    headers = (
        "Host: 127.0.0.1\r\nX-Agent-Token: " + "t" * 380 + "\r\nX-Trace-ID: 0190-trace\r\nAccept: */*\r\n"
        "Accept-Encoding: identity\r\nUser-Agent: Clasper\r\n"
    )
    if body:
        headers += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{method} {path} HTTP/1.1\r\n{headers}\r\n{body}".encode()


def _flood(port: int, request: bytes, seconds: float, pipelined: int) -> tuple[int, float]:
    """How many of the requests were answered, in how many seconds."""
    burst = request * pipelined
    answers = _Answers()
    with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE) as connection:
        began = time.perf_counter()
        while (took := time.perf_counter() - began) < seconds:
            connection.sendall(burst)
            answers.read(connection, pipelined)
    return answers.complete, took


class _Answers:
    """Counts whole answers on one connection."""

    def __init__(self) -> None:
        self.complete = 0
        self._parser = httptools.HttpResponseParser(self)

    def on_message_complete(self) -> None:
        self.complete += 1

    def read(self, connection: socket.socket, count: int) -> None:
        """Reads so many more answers. Raises ConnectionError or TimeoutError when they do not come."""
        due = self.complete + count
        while self.complete < due:
            data = connection.recv(1 << 20)
            if not data:
                raise ConnectionError("the upstream hung up")
            self._parser.feed_data(data)
            if self._parser.get_status_code() >= 400:
                raise ValueError(f"the upstream answered {self._parser.get_status_code()}")
