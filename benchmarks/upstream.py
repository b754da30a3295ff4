"""The fake upstream: a model provider and a control plane in one process that costs the machine as little as it can.

    python -m benchmarks.upstream --port 0 --latency-ms 0 --chunks 20 --chunk-ms 0

prints one JSON line, `{"port": n}`, when it listens on 127.0.0.1. Every answer is rendered once, at the start; only
ids, and a number in the text of a whole completion, differ. The provider speaks OpenAI's chat completions (whole and
streamed, with tool calls under `--tool-calls`), the control plane contract v1; `GET /_counts` tells how often each
route was asked and how many clients left before a stream's end. `--self-test` tells how much such a process can serve.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import signal
from collections import Counter
from dataclasses import dataclass
from typing import Any

import httptools
import uvloop

_NUMBER = "R000000"
_SENTENCE = "The quarter closed well ahead of plan, and the team agreed on three next steps for the coming week. "
ANSWER = f"Report {_NUMBER}. {_SENTENCE * 4}"[:400]
"""What the model says; whole answers are numbered, so that no cache of texts meets one twice."""
MODEL = "gpt-4o-mini"
USAGE = {
    "prompt_tokens": 1250,
    "completion_tokens": 150,
    "total_tokens": 1400,
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
TASK_ID = "01900000-0000-7000-8000-000000000009"
TASK_TITLE = "Benchmark"
TASKS = 10
TOOL_NAME = "lookup"
_CREATED = 1_770_000_000
_ID = "000000000000"
"""The end of an id that differs from answer to answer."""
_NUMBERED = frozenset({"messages", "documents"})


@dataclass(frozen=True, slots=True)
class Options:
    """How the upstream behaves: seconds before an answer, chunks of a stream and seconds between them, tool calls."""

    latency: float = 0.0
    chunks: int = 20
    chunk_gap: float = 0.0
    tool_calls: bool = False


def rendered(body: Any, status: str = "200 OK") -> bytes:
    """A complete HTTP response with a JSON body."""
    content = json.dumps(body, separators=(",", ":")).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def numbered(page: bytes) -> bytes:
    """The page as a format: every `_ID` and `_NUMBER` becomes a place for a number of the same width."""
    escaped = page.replace(b"%", b"%%")
    return escaped.replace(_ID.encode(), b"%012d").replace(_NUMBER.encode(), b"R%06x")


def _completion(message: dict[str, Any], finish_reason: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}
    return {
        "id": f"chatcmpl-{_ID}",
        "object": "chat.completion",
        "created": _CREATED,
        "model": MODEL,
        "choices": [choice],
        "usage": USAGE,
    }


def _event(delta: dict[str, Any] | None, finish_reason: str | None = None, usage: Any = None) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    chunk = {
        "id": "chatcmpl-benchmark",
        "object": "chat.completion.chunk",
        "created": _CREATED,
        "model": MODEL,
        "choices": choices,
        "usage": usage,
    }
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def _transfer_chunk(content: bytes) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


_STREAMED = re.compile(rb'"stream": ?true')
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_TOOL_CALL = {
    "id": "call_benchmark",
    "type": "function",
    "function": {"name": TOOL_NAME, "arguments": '{"query":"quarter"}'},
}


class Pages:
    """Every response, rendered: `static` by method and path, `completion` and `tool_call` whole and as stream parts.

    `completion` and the pages in `numbered` are formats (see `numbered`).
    """

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
        self.static: dict[tuple[bytes, bytes], tuple[str, bytes]] = {
            (b"GET", b"/health"): ("health", rendered({"status": "ok"})),
            (b"GET", b"/api/mission-control/capabilities"): (
                "capabilities",
                rendered({"contract_version": "v1", "features": features}),
            ),
            (b"GET", b"/api/mission-control/tasks"): ("tasks_list", rendered({"items": tasks, "next_cursor": None})),
            (b"POST", b"/api/mission-control/tasks"): ("tasks_create", rendered(tasks[-1], made)),
            (b"POST", b"/api/mission-control/messages"): (
                "messages",
                rendered({"id": f"01900000-0000-7000-8001-{_ID}", "task_id": TASK_ID}, made),
            ),
            (b"POST", b"/api/mission-control/documents"): (
                "documents",
                rendered(
                    {
                        "id": f"01900000-0000-7000-8002-{_ID}",
                        "title": "Plan",
                        "doc_type": "plan",
                        "task_id": TASK_ID,
                    },
                    made,
                ),
            ),
            (b"GET", b"/api/tools"): ("tools_list", rendered({"tools": [tool]})),
            (b"POST", b"/api/tools/" + TOOL_NAME.encode()): (
                "tools_execute",
                rendered({"result": {"found": ANSWER[:60]}}),
            ),
        }
        self.numbered = {name: numbered(page) for name, page in self.static.values() if name in _NUMBERED}
        self.missing = rendered({"error": "Not found", "code": "not_found", "details": {}}, "404 Not Found")
        self.completion = numbered(rendered(_completion({"content": ANSWER}, "stop")))
        self.tool_call = rendered(_completion({"content": None, "tool_calls": [_TOOL_CALL]}, "tool_calls"))
        self.stream = _stream_parts([{"content": piece} for piece in _pieces(ANSWER, options.chunks)], "stop")
        self.tool_stream = _stream_parts([{"tool_calls": [{"index": 0, **_TOOL_CALL}]}], "tool_calls")


def _pieces(text: str, count: int) -> list[str]:
    """The text cut into `count` pieces of nearly equal length, none of them empty as long as there is text."""
    cuts = [len(text) * n // count for n in range(count + 1)]
    return [text[start:end] for start, end in itertools.pairwise(cuts)]


def _stream_parts(deltas: list[dict[str, Any]], finish_reason: str) -> list[bytes]:
    """What is written one after the other: the head with the role, each delta, and the end with usage and `[DONE]`."""
    parts = [_STREAM_HEAD + _transfer_chunk(_event({"role": "assistant", "content": ""}))]
    parts += [_transfer_chunk(_event(delta)) for delta in deltas]
    end = _event({}, finish_reason) + _event(None, usage=USAGE) + b"data: [DONE]\n\n"
    parts.append(_transfer_chunk(end) + b"0\r\n\r\n")
    return parts


class Upstream(asyncio.Protocol):
    """One connection. Requests are answered in turn, as keep-alive clients send them."""

    def __init__(self, options: Options, pages: Pages, counts: Counter[str]) -> None:
        self._options = options
        self._pages = pages
        self._counts = counts
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
        if self._url == b"/v1/chat/completions":
            self._complete()
            return
        path = self._url.partition(b"?")[0]
        if path == b"/_counts":
            self._transport.write(rendered(dict(self._counts)))
        else:
            name, page = self._pages.static.get((self._parser.get_method(), path), ("missing", self._pages.missing))
            self._counts[name] = number = self._counts[name] + 1
            self._transport.write(self._pages.numbered[name] % number if name in _NUMBERED else page)

    def _complete(self) -> None:
        body = self._body
        self._counts["completion_bytes"] += len(body)
        wants_tool = self._options.tool_calls and b'"tools"' in body and b'"tool_call_id"' not in body
        if b'"stream"' in body and _STREAMED.search(body):
            self._counts["completions_streamed"] += 1
            self._streaming = True
            self._after(
                self._options.latency, self._stream, self._pages.tool_stream if wants_tool else self._pages.stream
            )
        else:
            self._counts["completions"] = number = self._counts["completions"] + 1
            page = self._pages.tool_call if wants_tool else self._pages.completion % (number, number & 0xFFFFFF)
            self._after(self._options.latency, self._transport.write, page)

    def _stream(self, parts: list[bytes], position: int = 0) -> None:
        if not self._options.chunk_gap:
            self._transport.writelines(parts)
            self._streaming = False
            return
        self._transport.write(parts[position])
        if position + 1 < len(parts):
            self._after(self._options.chunk_gap, self._stream, parts, position + 1)
        else:
            self._streaming = False

    def _after(self, seconds: float, call: Any, *arguments: Any) -> None:
        if seconds:
            self._timer = self._loop.call_later(seconds, call, *arguments)
        else:
            call(*arguments)


async def listen(options: Options, port: int = 0) -> asyncio.Server:
    """A listening upstream on 127.0.0.1; the caller closes it."""
    pages, counts = Pages(options), Counter[str]()
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Upstream(options, pages, counts), "127.0.0.1", port, backlog=4096)


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
    parser.add_argument("--latency-ms", type=float, default=0.0, help="before a completion begins")
    parser.add_argument("--chunks", type=int, default=20, help="content chunks of a streamed completion")
    parser.add_argument("--chunk-ms", type=float, default=0.0, help="between chunks; 0 sends the stream in one write")
    parser.add_argument("--tool-calls", action="store_true", help="call a tool first when the request offers tools")
    parser.add_argument("--self-test", action="store_true", help="measure what one such process can serve, and end")
    given = parser.parse_args()
    if given.self_test:
        from benchmarks.capacity import capacity

        print(json.dumps(capacity(), indent=2))
        return
    options = Options(given.latency_ms / 1000, max(1, given.chunks), given.chunk_ms / 1000, given.tool_calls)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(options, given.port))


if __name__ == "__main__":
    main()
