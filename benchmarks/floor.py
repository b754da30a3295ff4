"""The yardstick: what a send costs at the least in Python on this machine.

    python -m benchmarks.floor --port N --upstream http://127.0.0.1:M --database FILE

A bare ASGI application under the same uvicorn: the same three calls as Clasper's send on one aiohttp session, prompts
of the same size, msgspec, and one grouped, awaited SQLite write (a trace, a step, three audit rows, the budget). No
Django, no checks, no redaction, no hash chain, no retries, no outbox: nothing that makes it a product.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import queue
import sqlite3
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import msgspec
import uvicorn
from yarl import URL

SECRET = "floor-secret-of-more-than-thirty-two-characters"
INPUT_NANO, OUTPUT_NANO = 150, 600
"""gpt-4o-mini, nano-USD a token."""
_SCHEMA = """
CREATE TABLE traces (id TEXT PRIMARY KEY, tenant_id TEXT, status TEXT, started_at TEXT, duration_ms INTEGER,
 input_tokens INTEGER, output_tokens INTEGER, cost INTEGER, task_id TEXT, message_id TEXT, content TEXT);
CREATE TABLE steps (id INTEGER PRIMARY KEY, trace_id TEXT, type TEXT, model TEXT, duration_ms INTEGER, cost INTEGER);
CREATE TABLE audit (id INTEGER PRIMARY KEY, tenant_id TEXT, event_type TEXT, trace_id TEXT, details TEXT);
CREATE TABLE budgets (tenant_id TEXT PRIMARY KEY, spent INTEGER);
"""
_TRACE = "INSERT INTO traces VALUES (?, ?, 'success', ?, ?, ?, ?, ?, ?, ?, ?)"
_STEP = "INSERT INTO steps (trace_id, type, model, duration_ms, cost) VALUES (?, 'llm_call', ?, ?, ?)"
_AUDIT = "INSERT INTO audit (tenant_id, event_type, trace_id, details) VALUES (?, ?, ?, ?)"
_SPEND = "INSERT INTO budgets VALUES (?, ?) ON CONFLICT (tenant_id) DO UPDATE SET spent = spent + excluded.spent"

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Body(msgspec.Struct):
    user_id: str
    session_key: str
    message: str
    task_title: str


class Task(msgspec.Struct):
    id: str
    title: str


class TaskList(msgspec.Struct):
    items: list[Task]


class Reply(msgspec.Struct):
    content: str


class Choice(msgspec.Struct):
    message: Reply


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class Chat(msgspec.Struct):
    choices: list[Choice]
    usage: Usage


class Created(msgspec.Struct):
    id: str


_body = msgspec.json.Decoder(Body)
_tasks = msgspec.json.Decoder(TaskList)
_chat = msgspec.json.Decoder(Chat)
_created = msgspec.json.Decoder(Created)
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Record:
    """One run, as it is written."""

    tenant_id: str
    trace: tuple[Any, ...]
    step: tuple[Any, ...]
    audit: tuple[tuple[Any, ...], ...]
    cost: int
    future: asyncio.Future[None]


class Writer:
    """One thread commits whatever waits, together."""

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._loop = loop
        self._queue: queue.SimpleQueue[Record] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def put(self, record: Record) -> None:
        self._queue.put(record)

    def _run(self) -> None:
        database = sqlite3.connect(self._path, isolation_level=None)
        database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;")
        while True:
            batch = [self._queue.get()]
            with suppress(queue.Empty):
                while len(batch) < 128:
                    batch.append(self._queue.get_nowait())
            spent: dict[str, int] = {}
            for each in batch:
                spent[each.tenant_id] = spent.get(each.tenant_id, 0) + each.cost
            database.execute("BEGIN IMMEDIATE")
            database.executemany(_TRACE, [each.trace for each in batch])
            database.executemany(_STEP, [each.step for each in batch])
            database.executemany(_AUDIT, [row for each in batch for row in each.audit])
            database.executemany(_SPEND, list(spent.items()))
            database.execute("COMMIT")
            self._loop.call_soon_threadsafe(_wake, batch)


def _wake(batch: list[Record]) -> None:
    for each in batch:
        if not each.future.done():
            each.future.set_result(None)


class Floor:
    """The application. One tenant per user, as with the contract's `user_id`."""

    def __init__(self, upstream: str, database: str, prompt: str, *, reuse_tokens: bool) -> None:
        root = f"{upstream}/api/mission-control"
        self._tasks_url = URL(f"{root}/tasks?limit=50", encoded=True)
        self._messages_url = URL(f"{root}/messages", encoded=True)
        self._chat_url = URL(f"{upstream}/v1/chat/completions", encoded=True)
        self._database = database
        self._prompt = prompt
        self._reuse_tokens = reuse_tokens
        self._tokens: dict[str, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["method"] == "POST":
            await _answer(send, await self._run(await _read(receive)))
        else:
            await _answer(send, b'{"status":"ok"}')

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity", "Content-Type": "application/json"},
        )
        self._writer = Writer(self._database, loop)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._session.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _run(self, raw: bytes) -> bytes:
        body = _body.decode(raw)
        began = self._loop.time()
        trace_id = str(uuid.uuid4())
        headers = {"X-Agent-Token": self._token(body.user_id), "X-Trace-ID": trace_id}
        page = _tasks.decode(await self._call("GET", self._tasks_url, headers))
        task_id = next(task.id for task in page.items if task.title == body.task_title)
        question = _encode(
            {
                "model": "gpt-4o-mini",
                "messages": [
                    {"role": "system", "content": self._prompt},
                    {"role": "user", "content": body.message},
                ],
                "max_completion_tokens": 4096,
                "temperature": 0.7,
            }
        )
        answer = _chat.decode(await self._call("POST", self._chat_url, {"Authorization": "Bearer key"}, question))
        text, usage = answer.choices[0].message.content, answer.usage
        message = _encode(
            {
                "task_id": task_id,
                "content": text,
                "actor_type": "agent",
                "agent_role": "support",
                "idempotency_key": trace_id,
            }
        )
        posted = _created.decode(await self._call("POST", self._messages_url, headers, message))
        cost = usage.prompt_tokens * INPUT_NANO + usage.completion_tokens * OUTPUT_NANO
        await self._write(body, trace_id, began, task_id, posted.id, text, usage, cost)
        return _encode(
            {
                "status": "ok",
                "task_id": task_id,
                "trace_id": trace_id,
                "response": text,
                "usage": usage,
                "cost": cost / 1e9,
            }
        )

    async def _call(self, method: str, url: URL, headers: dict[str, str], body: bytes | None = None) -> bytes:
        async with self._session.request(method, url, data=body, headers=headers) as response:
            return await response.read()

    def _token(self, user_id: str) -> str:
        token = self._tokens.get(user_id)
        if token is None:
            now = int(time.time())
            claims = {
                "type": "agent",
                "user_id": user_id,
                "agent_role": "support",
                "tenant_id": user_id,
                "sub": "clasper:support",
                "aud": "control-plane",
                "jti": str(uuid.uuid4()),
                "iat": now,
                "exp": now + 600,
            }
            token = jwt.encode(claims, SECRET, algorithm="HS256")
            if self._reuse_tokens:
                self._tokens[user_id] = token
        return token

    async def _write(
        self,
        body: Body,
        trace_id: str,
        began: float,
        task_id: str,
        message_id: str,
        text: str,
        usage: Usage,
        cost: int,
    ) -> None:
        tenant = "bench"
        took = round((self._loop.time() - began) * 1000)
        content = _encode({"input": body.message, "output": text}).decode()
        tokens = (usage.prompt_tokens, usage.completion_tokens)
        trace = (trace_id, tenant, time.time(), took, *tokens, cost, task_id, message_id, content)
        details = _encode({"duration_ms": took, "cost": cost}).decode()
        audit = tuple((tenant, event, trace_id, details) for event in ("agent.start", "llm.call", "agent.complete"))
        future: asyncio.Future[None] = self._loop.create_future()
        self._writer.put(Record(tenant, trace, (trace_id, "gpt-4o-mini", took, cost), audit, cost, future))
        await future


async def _read(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    return body


async def _answer(send: Send, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def workspace_prompt(folder: Path) -> str:
    """The workspace's texts in one, about as long as the prompt that Clasper composes of them."""
    names = ("SOUL.md", "AGENTS.md", "IDENTITY.md", "TOOLS.md", "USER.md", "MEMORY.md")
    texts = [(folder / name).read_text() for name in names if (folder / name).exists()]
    skills = [path.read_text() for path in sorted((folder / "skills").glob("*/SKILL.md"))]
    texts += [skill.rpartition("\n---\n")[2].strip() for skill in skills]
    return "\n\n".join(texts)


def application(upstream: str, database: str, workspace: str, *, reuse_tokens: bool) -> Floor:
    """The application on a new database file."""
    with sqlite3.connect(database) as connection:
        connection.executescript(f"PRAGMA journal_mode=WAL; {_SCHEMA}")
    connection.close()
    return Floor(upstream, database, workspace_prompt(Path(workspace)), reuse_tokens=reuse_tokens)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floor", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--database", required=True)
    parser.add_argument("--workspace", default=os.environ.get("CLASPER_WORKSPACE", "fixtures/workspaces/demo"))
    parser.add_argument("--reuse-tokens", action="store_true", help="sign a user's agent token once, as Clasper does")
    options = parser.parse_args()
    uvicorn.run(
        application(options.upstream, options.database, options.workspace, reuse_tokens=options.reuse_tokens),
        host="127.0.0.1",
        port=options.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
    )


if __name__ == "__main__":
    main()
