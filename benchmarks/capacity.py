"""What the fake upstream can serve: it must be far from the limit whenever a server is measured against it.

A client that costs next to nothing keeps one connection full of rendered requests, so that the upstream's process is
the only thing that is busy.
"""

from __future__ import annotations

import json
import socket
import time

from benchmarks import processes
from benchmarks.watch import cpu_seconds

FACTOR = 20
"""How much more than anything measured the upstream must be able to serve."""
_PIPELINED = 200
_SECONDS = 1.0
_PROMPT_BYTES = 5000


def capacity(seconds: float = _SECONDS) -> dict[str, float]:
    """Chat completions and task lists a second, and the CPU of a whole send (completion, list, message) in µs."""
    with processes.running("benchmarks.upstream") as (pid, port):
        chat = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * _PROMPT_BYTES}]})
        kinds = {
            "completions": _request("POST", "/v1/chat/completions", chat),
            "task_lists": _request("GET", "/api/mission-control/tasks?limit=50", ""),
            "messages": _request("POST", "/api/mission-control/messages", json.dumps({"content": "x" * 400})),
        }
        found: dict[str, float] = {}
        cpu = 0.0
        for name, request in kinds.items():
            before = cpu_seconds([pid])
            served, took = _flood(port, request, seconds)
            cpu += (cpu_seconds([pid]) - before) / served
            found[f"{name}_per_second"] = served / took
    return {**found, "cpu_us_per_send": cpu * 1e6, "sends_per_second": 1 / cpu}


def _request(method: str, path: str, body: str) -> bytes:
    headers = (
        "Host: 127.0.0.1\r\nX-Agent-Token: " + "t" * 380 + "\r\nX-Trace-ID: 0190-trace\r\nAccept: */*\r\n"
        "Accept-Encoding: identity\r\nUser-Agent: Clasper\r\n"
    )
    if body:
        headers += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{method} {path} HTTP/1.1\r\n{headers}\r\n{body}".encode()


def _flood(port: int, request: bytes, seconds: float) -> tuple[int, float]:
    """How many of the requests were answered, in how many seconds."""
    burst = request * _PIPELINED
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setblocking(True)
        connection.sendall(request)
        size = len(connection.recv(1 << 16))
        began = time.perf_counter()
        served = 0
        while (took := time.perf_counter() - began) < seconds:
            connection.sendall(burst)
            due = size * _PIPELINED
            while due > 0:
                due -= len(connection.recv(1 << 20))
            served += _PIPELINED
    return served, took
