"""Values kept for a while, and fetched once however many runs ask at the same time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from time import monotonic
from typing import Generic, TypeVar

V = TypeVar("V")

MAX_ENTRIES = 1024


class SharedCache(Generic[V]):
    """Values by key, every one with its own expiry; the least recently written is dropped first.

    One fetch serves all who wait for a key on the same event loop. It runs in a task of its own, so that a waiter who
    is cancelled or out of time does not take it away from the others.
    """

    def __init__(self, *, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._values: OrderedDict[Hashable, tuple[V, float]] = OrderedDict()
        self._fetches: dict[tuple[asyncio.AbstractEventLoop, Hashable], asyncio.Task[V]] = {}

    def peek(self, key: Hashable) -> V | None:
        """The kept value, or None when it has expired."""
        entry = self._values.get(key)
        return entry[0] if entry is not None and self._clock() < entry[1] else None

    def put(self, key: Hashable, value: V, *, seconds: float) -> None:
        self._values[key] = (value, self._clock() + seconds)
        self._values.move_to_end(key)
        if len(self._values) > MAX_ENTRIES:
            self._values.popitem(last=False)

    async def get(self, key: Hashable, fetch: Callable[[], Awaitable[tuple[V, float]]], *, deadline: float) -> V:
        """The kept value or a fetched one; `fetch` returns a value and the seconds to keep it.

        Raises whatever `fetch` raises (nothing is kept then), and TimeoutError at `deadline` of the loop's clock.
        """
        value = self.peek(key)
        if value is not None:
            return value
        loop = asyncio.get_running_loop()
        fetching = self._fetches.get((loop, key))
        if fetching is None:
            fetching = loop.create_task(self._fetch(key, fetch))
            self._fetches[loop, key] = fetching
            fetching.add_done_callback(lambda task: self._finished(loop, key, task))
        async with asyncio.timeout_at(deadline):
            return await asyncio.shield(fetching)

    async def _fetch(self, key: Hashable, fetch: Callable[[], Awaitable[tuple[V, float]]]) -> V:
        value, seconds = await fetch()
        self.put(key, value, seconds=seconds)
        return value

    def _finished(self, loop: asyncio.AbstractEventLoop, key: Hashable, task: asyncio.Task[V]) -> None:
        self._fetches.pop((loop, key), None)
        if not task.cancelled():
            task.exception()  # every waiter may have left; a failure nobody saw is not worth a log line
