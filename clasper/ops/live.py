"""Live events: each tenant's audit entries, in order and without a gap, as they are committed.

The database is the source. A process reads a tenant's new entries once, however many listen to it, and keeps the latest
few; a listener that has fallen further back reads pages of its own, as fast as its client takes them. Wake-ups travel
through the Channels layer, one group per tenant; a lost one only delays the entries until the next poll.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import islice
from types import FrameType
from typing import Any

import msgspec
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import close_old_connections

from apps.audit.services.reading import AuditRecord, audit_after, last_seq
from apps.audit.services.signal import subscribe
from clasper.core.per_loop import PerLoop
from clasper.core.schemas import render

logger = logging.getLogger("clasper.live")

POLL_SECONDS = 2.0
"""How late an entry is at most when its wake-up was lost."""
LINGER_SECONDS = 0.05
"""Wake-ups that follow each other sooner are one: a busy tenant costs twenty queries a second, not thousands."""
HEAL_SECONDS = 15.0
"""Pause before the channel layer is tried again after a failure."""
PAGE = 200
KEPT = 1_000
"""Latest events that a process keeps of a tenant that somebody listens to."""

Line = tuple[int, bytes]
"""An entry's seq and its server-sent event."""


def encode_entry(entry: AuditRecord) -> bytes:
    """The server-sent event of an entry; its data is the entry as `GET /audit` shows it."""
    data = msgspec.json.encode(render(entry))
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (entry.seq, entry.event_type.encode(), data)


class Feed:
    """The events of one tenant for everybody who listens to it on this event loop."""

    def __init__(self, tenant_id: str, newest: int) -> None:
        self.listeners = 0
        self._tenant = tenant_id
        self._newest = newest
        self._recent: deque[Line] = deque(maxlen=KEPT)
        self._look = asyncio.Event()
        self._news = asyncio.Event()
        self._tasks = [asyncio.ensure_future(self._read()), asyncio.ensure_future(self._hear())]

    async def after(self, seq: int, *, patience: float) -> list[Line]:
        """The events that follow `seq`, at most PAGE of them; none when there is nothing new for `patience` seconds."""
        if seq >= self._newest:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    while seq >= self._newest:
                        await self._news.wait()
        if seq >= self._newest:
            return []
        skip = seq + 1 - (self._newest - len(self._recent) + 1)
        if skip >= 0:
            return list(islice(self._recent, skip, skip + PAGE))
        return await _page(self._tenant, seq)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _read(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._look.wait()
            self._look.clear()
            try:
                while page := await _page(self._tenant, self._newest):
                    self._take(page)
            except Exception:
                logger.exception("live events cannot be read")
                await asyncio.sleep(POLL_SECONDS)
            await asyncio.sleep(LINGER_SECONDS)

    def _take(self, page: list[Line]) -> None:
        self._recent += page
        self._newest = page[-1][0]
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _hear(self) -> None:
        """Looks when the layer says so. Without the layer, the reader looks by itself."""
        layer = _layer()
        while True:
            try:
                channel = await layer.new_channel()
                await layer.group_add(_group(self._tenant), channel)
                try:
                    while True:
                        self._look.set()
                        await layer.receive(channel)
                finally:
                    await layer.group_discard(_group(self._tenant), channel)
            except Exception:
                logger.warning("live events come late: the channel layer is not available", exc_info=True)
                await asyncio.sleep(HEAL_SECONDS)


class Announcer:
    """Announces to the layer's groups which tenants have new entries; called in the thread that commits."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tenants: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def __call__(self, tenants: frozenset[str]) -> None:
        with suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._note, tenants)

    def _note(self, tenants: frozenset[str]) -> None:
        self._tenants |= tenants
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._send())

    async def _send(self) -> None:
        layer = _layer()
        while self._tenants:
            tenants, self._tenants = self._tenants, set()
            try:
                for tenant_id in tenants:
                    await layer.group_send(_group(tenant_id), {"type": "audit.appended"})
            except Exception:
                # Whoever listens elsewhere looks by itself every few seconds.
                logger.warning("live events come late: the channel layer is not available", exc_info=True)
                await asyncio.sleep(HEAL_SECONDS)
            await asyncio.sleep(LINGER_SECONDS)


class Hub:
    """The feeds of one event loop, each there while somebody listens to it."""

    def __init__(self) -> None:
        self.closing = asyncio.Event()
        self._feeds: dict[str, Feed] = {}
        self._listeners = 0
        self._unsubscribe: Callable[[], None] | None = None

    @asynccontextmanager
    async def listen(self, tenant_id: str) -> AsyncGenerator[tuple[Feed, int], None]:
        """The tenant's feed and the seq of its newest entry at present."""
        with self.announced():
            newest = await _newest(tenant_id)
            feed = self._feeds.get(tenant_id)
            if feed is None:
                feed = self._feeds[tenant_id] = Feed(tenant_id, newest)
            feed.listeners += 1
            try:
                yield feed, newest
            finally:
                feed.listeners -= 1
                if not feed.listeners:
                    feed.close()
                    del self._feeds[tenant_id]

    @contextmanager
    def announced(self) -> Iterator[None]:
        """While it is open, commits of this process are announced to the listeners of every process."""
        self._listeners += 1
        if self._unsubscribe is None:
            self._unsubscribe = subscribe(Announcer())
        try:
            yield
        finally:
            self._listeners -= 1
            if not self._listeners:
                self._unsubscribe()
                self._unsubscribe = None


_hubs = PerLoop(Hub)


def hub() -> Hub:
    """The hub of the running event loop."""
    return _hubs.current()


@contextmanager
def serving() -> Iterator[None]:
    """While a server runs: with Redis, processes of other machines may listen to what this one commits."""
    if settings.REDIS_URL:
        with hub().announced():
            yield
    else:
        yield


def end_on_signals() -> None:
    """Ends every feed of the running loop when the process is told to stop.

    A server waits for open connections before it tells the application, and a feed would stay open forever.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    loop, closing = asyncio.get_running_loop(), hub().closing

    def ending(previous: Any) -> Callable[[int, FrameType | None], None]:
        def end(number: int, frame: FrameType | None) -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(closing.set)
            if callable(previous):
                previous(number, frame)

        return end

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ending(signal.getsignal(number)))


def _layer() -> Any:
    return get_channel_layer()  # type: ignore[no-untyped-call]  # Channels ships no types


def _group(tenant_id: str) -> str:
    """Groups take few characters, tenants any."""
    return f"clasper.live.{hashlib.sha256(tenant_id.encode()).hexdigest()[:40]}"


# Runs share a thread for their reads. With one apart, listeners that catch up hold none of them up; with several, they
# would only take more of the processor from them.
_reader = ThreadPoolExecutor(1, thread_name_prefix="clasper-live")


@sync_to_async(thread_sensitive=False, executor=_reader)
def _page(tenant_id: str, seq: int) -> list[Line]:
    # Outside a request nobody else ends a connection that has grown too old or was lost.
    close_old_connections()
    try:
        return [(entry.seq, encode_entry(entry)) for entry in audit_after(tenant_id=tenant_id, seq=seq, limit=PAGE)]
    finally:
        close_old_connections()


@sync_to_async(thread_sensitive=False, executor=_reader)
def _newest(tenant_id: str) -> int:
    close_old_connections()
    try:
        return last_seq(tenant_id=tenant_id)
    finally:
        close_old_connections()
