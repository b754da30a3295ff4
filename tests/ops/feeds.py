"""Listeners of the live events, and entries for them to hear of."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
import httpx
from django.db import connection

from apps.audit.services.recording import record_audit
from clasper.core.clock import utc_now
from clasper.core.db import atomic_batch
from tests.world import ACME, DAEMON_KEY

PATH = "/ops/api/events"


@dataclass(frozen=True)
class Heard:
    """One event of a feed; `data` is None for a block that is no event."""

    id: int | None
    event: str
    data: dict[str, Any] | None


def parse_block(block: str) -> Heard | None:
    """None for a comment."""
    fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
    if not fields:
        return None
    data = json.loads(fields["data"]) if "data" in fields else None
    return Heard(int(fields["id"]) if "id" in fields else None, fields.get("event", ""), data)


@dataclass
class Listener:
    """An open feed of httpx."""

    response: httpx.Response
    _blocks: Iterator[str] = field(init=False)

    def __post_init__(self) -> None:
        self._blocks = self._read()

    def _read(self) -> Iterator[str]:
        buffer = ""
        for text in self.response.iter_text():
            *whole, buffer = (buffer + text).split("\n\n")
            yield from whole

    def block(self) -> str:
        return next(self._blocks)

    def rest(self) -> list[Heard]:
        """What comes until the feed ends."""
        return [heard for heard in map(parse_block, self._blocks) if heard is not None]

    def hear(self, count: int = 1) -> list[Heard]:
        """The next events."""
        heard: list[Heard] = []
        while len(heard) < count:
            each = parse_block(self.block())
            if each is not None:
                heard.append(each)
        return heard

    @classmethod
    @contextmanager
    def open(cls, url: str, *, key: str = "", last: int | None = None, **query: Any) -> Iterator[tuple[Self, int]]:
        """A feed, and the id it begins after. With the daemon key and acme, unless `key` says otherwise."""
        headers = {"Authorization": f"Bearer {key}"} if key else {"X-Agent-Daemon-Key": DAEMON_KEY}
        if last is not None:
            headers["Last-Event-ID"] = str(last)
        if not key:
            query.setdefault("tenant_id", ACME)
        with httpx.stream("GET", f"{url}{PATH}", headers=headers, params=query, timeout=20) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            listener = cls(response)
            (first,) = listener.hear()
            assert first.data is None
            assert first.id is not None
            yield listener, first.id


@asynccontextmanager
async def async_feed(session: aiohttp.ClientSession, url: str, **query: Any) -> AsyncIterator[AsyncIterator[Heard]]:
    """A feed of acme among many."""
    headers = {"X-Agent-Daemon-Key": DAEMON_KEY}
    async with session.get(f"{url}{PATH}", headers=headers, params={"tenant_id": ACME, **query}) as response:
        assert response.status == 200

        async def events() -> AsyncIterator[Heard]:
            while True:
                block = (await response.content.readuntil(b"\n\n")).decode()
                heard = parse_block(block.removesuffix("\n\n"))
                if heard is not None:
                    yield heard

        yield events()


def note(count: int = 1, *, tenant_id: str = ACME, who: str = "test", together: bool = False) -> None:
    """Appends entries to a tenant's chain, each in a transaction of its own or all in one."""
    for size in [count] if together else [1] * count:
        with atomic_batch() as batch:
            for number in range(size):
                record_audit(
                    batch,
                    tenant_id=tenant_id,
                    event_type="budget.set",
                    actor=f"user:{who}",
                    now=utc_now(),
                    details={"number": number},
                )


def write_at_once(writers: int, count: int) -> list[threading.Thread]:
    """Threads that append, each `count` entries on a connection of its own."""

    def write(who: str) -> None:
        try:
            note(count, who=who)
        finally:
            connection.close()

    threads = [threading.Thread(target=write, args=(f"w{number}",)) for number in range(writers)]
    for thread in threads:
        thread.start()
    return threads


def seqs(heard: Iterable[Heard]) -> list[int]:
    return [each.id for each in heard if each.id is not None]
