"""The fake upstream: a model provider and a control plane in one process that costs the machine as little as it can.

    python -m benchmarks.upstream --port 0 --latency-ms 0 --chunks 20 --chunk-ms 0

prints one JSON line, `{"port": n}`, when it listens on 127.0.0.1. Every answer is rendered once, at the start; only
ids, and a number in the text of a whole answer, differ. The provider speaks three wire formats, whole and streamed:
OpenAI's chat completions (with tool calls under `--tool-calls`) and Anthropic's messages below `/v1`, Gemini's
generateContent below `/v1beta`. The control plane speaks contract v1. `GET /_counts` returns how often each route and
each wire format was asked for, and how many clients left before a stream's end; `POST /_options` changes some of
`Options` for the streams that follow. `--self-test` prints how much such a process can serve.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import httptools
import uvloop

from benchmarks.answers import ANSWER, TOOL_NAME, Answers, answers, pieces_of, wants_stream, wire_format_of
from benchmarks.rendering import ID, numbered, numbers, rendered

TASK_ID = "01900000-0000-7000-8000-000000000009"
TASK_TITLE = "Benchmark"
TASKS = 10
_NUMBERED = frozenset({"messages", "documents"})


@dataclass(frozen=True, slots=True)
class Options:
    """How the upstream behaves: seconds before an answer, chunks of a stream and seconds between them, tool calls.

    `chunk_chars` 0 cuts the usual text into `chunks`, otherwise every chunk has so many characters.
    """

    latency: float = 0.0
    chunks: int = 20
    chunk_gap: float = 0.0
    chunk_chars: int = 0
    tool_calls: bool = False


class Pages:
    """Every response of the control plane, rendered, by method and path; those in `numbered` are formats."""

    def __init__(self, options: Options) -> None:
        tasks = [
            {"id": f"01900000-0000-7000-8000-{n:012d}", "title": f"Task {n}", "status": "in_progress"}
            for n in range(TASKS - 1)
        ]
        tasks.append({"id": TASK_ID, "title": TASK_TITLE, "status": "in_progress"})
        features = {"tasks": True, "messages": True, "documents": True, "tools": options.tool_calls}
        tool = {
            "name": TOOL_NAME,
            "description": "Looks something up.",
            "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
        }
        made = "201 Created"
        message = {"id": f"01900000-0000-7000-8001-{ID}", "task_id": TASK_ID}
        document = {"id": f"01900000-0000-7000-8002-{ID}", "title": "Plan", "doc_type": "plan", "task_id": TASK_ID}
        pages = {
            "GET /health": ("health", rendered({"status": "ok"})),
            "GET /api/mission-control/capabilities": (
                "capabilities",
                rendered({"contract_version": "v1", "features": features}),
            ),
            "GET /api/mission-control/tasks": ("tasks_list", rendered({"items": tasks, "next_cursor": None})),
            "POST /api/mission-control/tasks": ("tasks_create", rendered(tasks[-1], made)),
            "POST /api/mission-control/messages": ("messages", rendered(message, made)),
            "POST /api/mission-control/documents": ("documents", rendered(document, made)),
            "GET /api/tools": ("tools_list", rendered({"tools": [tool]})),
            f"POST /api/tools/{TOOL_NAME}": ("tools_execute", rendered({"result": {"found": ANSWER[:60]}})),
        }
        self.static: dict[tuple[bytes, ...], tuple[str, bytes]] = {
            tuple(route.encode().split(b" ")): page for route, page in pages.items()
        }
        self.numbered = {name: numbered(page) for name, page in self.static.values() if name in _NUMBERED}
        self.missing = rendered({"error": "Not found", "code": "not_found", "details": {}}, "404 Not Found")


class World:
    """What all connections share: the options, every answer, and the counts."""

    def __init__(self, options: Options) -> None:
        self.pages = Pages(options)
        self.counts = Counter[str]()
        self.behave(options)

    def behave(self, options: Options) -> None:
        """Renders the model's answers again; streams under way go on as they began."""
        self.options = options
        self.answers = answers(pieces_of(options.chunks, options.chunk_chars))


class Upstream(asyncio.Protocol):
    """One connection. Requests are answered in turn, as keep-alive clients send them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._counts = world.counts
        self._loop = asyncio.get_running_loop()
        self._streaming = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._parser = httptools.HttpRequestParser(self)
        self._url, self._body = b"", b""

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._streaming:
            self._counts["streams_left"] += 1

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        self._url, self._body = url, b""

    def on_body(self, body: bytes) -> None:
        self._body = self._body + body if self._body else body

    def on_message_complete(self) -> None:
        path = self._url.partition(b"?")[0]
        if wire_format := wire_format_of(path):
            self._answer(self._world.answers[wire_format], path)
        elif path == b"/_counts":
            self._transport.write(rendered(dict(self._counts)))
        elif path == b"/_options":
            self._transport.write(self._change())
        else:
            pages = self._world.pages
            name, page = pages.static.get((self._parser.get_method(), path), ("missing", pages.missing))
            self._counts[name] = number = self._counts[name] + 1
            self._transport.write(pages.numbered[name] % numbers(number) if name in _NUMBERED else page)

    def _answer(self, said: Answers, path: bytes) -> None:
        body, options = self._body, self._world.options
        self._counts["completion_bytes"] += len(body)
        self._counts[f"asked_{said.wire_format}"] += 1
        wants_tool = options.tool_calls and b'"tools"' in body and b'"tool_call_id"' not in body
        reply = said.tool_call if wants_tool and said.tool_call else said.text
        if wants_stream(said.wire_format, path, body):
            self._counts["completions_streamed"] += 1
            self._streaming = True
            if options.chunk_gap:
                self._after(options.latency, self._stream, reply.parts, options.chunk_gap)
            else:
                self._after(options.latency, self._stream_at_once, reply.at_once)
        else:
            self._counts["completions"] = number = self._counts["completions"] + 1
            self._after(options.latency, self._transport.write, reply.whole % numbers(number))

    def _stream(self, parts: tuple[bytes, ...], gap: float, position: int = 0) -> None:
        self._transport.write(parts[position])
        if position + 1 < len(parts):
            self._after(gap, self._stream, parts, gap, position + 1)
        else:
            self._streaming = False

    def _stream_at_once(self, stream: bytes) -> None:
        self._transport.write(stream)
        self._streaming = False

    def _after(self, seconds: float, call: Any, *arguments: Any) -> None:
        if seconds:
            self._timer = self._loop.call_later(seconds, call, *arguments)
        else:
            call(*arguments)

    def _change(self) -> bytes:
        try:
            self._world.behave(replace(self._world.options, **json.loads(self._body)))
        except (TypeError, ValueError, ZeroDivisionError) as error:
            return rendered({"error": str(error), "code": "invalid_options", "details": {}}, "400 Bad Request")
        return rendered({})


async def listen(options: Options, port: int = 0) -> asyncio.Server:
    """A listening upstream on 127.0.0.1; the caller closes it."""
    world = World(options)
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Upstream(world), "127.0.0.1", port, backlog=4096)


async def _serve(options: Options, port: int) -> None:
    server = await listen(options, port)
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await stop.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, default=0.0, help="before an answer begins")
    parser.add_argument("--chunks", type=int, default=20, help="content chunks of a stream")
    parser.add_argument("--chunk-ms", type=float, default=0.0, help="between chunks; 0 sends the stream in one write")
    parser.add_argument("--chunk-chars", type=int, default=0, help="of each chunk; 0 cuts the usual text into chunks")
    parser.add_argument("--tool-calls", action="store_true", help="call a tool first when the request offers tools")
    parser.add_argument("--self-test", action="store_true", help="measure what one such process can serve, and end")
    given = parser.parse_args()
    if given.self_test:
        from benchmarks.capacity import capacity, streaming_capacity

        print(json.dumps(capacity() | streaming_capacity(), indent=2))
        return
    options = Options(
        given.latency_ms / 1000, max(1, given.chunks), given.chunk_ms / 1000, given.chunk_chars, given.tool_calls
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(options, given.port))


if __name__ == "__main__":
    main()
