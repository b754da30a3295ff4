"""Answers kept for a while, and fetched once however many runs ask at the same time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from time import monotonic
from typing import Generic, TypeVar

V = TypeVar("V")

MAX_ENTRIES = 1024


class SharedCache(Generic[V]):
    """Values by key with an expiry each; the least recently written leave first.

    One fetch runs for all who wait for the same key on the same event loop, in a task of its own, so that a waiter who
    is cancelled or out of time takes nothing from the others.
    """

    def __init__(self, *, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._values: OrderedDict[Hashable, tuple[V, float]] = OrderedDict()
        self._flights: dict[tuple[asyncio.AbstractEventLoop, Hashable], asyncio.Task[V]] = {}

    def peek(self, key: Hashable) -> V | None:
        """The kept value, while it is fresh."""
        entry = self._values.get(key)
        return entry[0] if entry is not None and self._clock() < entry[1] else None

    def put(self, key: Hashable, value: V, *, seconds: float) -> None:
        self._values[key] = (value, self._clock() + seconds)
        self._values.move_to_end(key)
        if len(self._values) > MAX_ENTRIES:
            self._values.popitem(last=False)

    async def get(self, key: Hashable, fetch: Callable[[], Awaitable[tuple[V, float]]], *, deadline: float) -> V:
        """The kept value or a fetched one; `fetch` gives a value and the seconds to keep it.

        Raises whatever `fetch` raises (nothing is kept then), and TimeoutError at `deadline` of the loop's clock.
        """
        value = self.peek(key)
        if value is not None:
            return value
        loop = asyncio.get_running_loop()
        flight = self._flights.get((loop, key))
        if flight is None:
            flight = loop.create_task(self._fetch(key, fetch))
            self._flights[loop, key] = flight
            flight.add_done_callback(lambda task: self._land(loop, key, task))
        async with asyncio.timeout_at(deadline):
            return await asyncio.shield(flight)

    async def _fetch(self, key: Hashable, fetch: Callable[[], Awaitable[tuple[V, float]]]) -> V:
        value, seconds = await fetch()
        self.put(key, value, seconds=seconds)
        return value

    def _land(self, loop: asyncio.AbstractEventLoop, key: Hashable, task: asyncio.Task[V]) -> None:
        self._flights.pop((loop, key), None)
        if not task.cancelled():
            task.exception()  # every waiter may have left; a failure nobody saw is not worth a log line
