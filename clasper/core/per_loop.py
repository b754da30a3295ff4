"""Values of which every event loop has its own, such as client sessions: what belongs to one loop fails on another."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class PerLoop(dict[AbstractEventLoop, T]):
    """Values by event loop, made on first use; those of closed loops are dropped when another loop gets its value.

    Threads may share it. A weak dictionary would not do: the values refer to their loops, which would never be freed.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, loop: AbstractEventLoop) -> T:
        # Other threads may add theirs at the same time, and a dictionary that grows cannot be iterated over.
        for closed in [other for other in list(self) if other.is_closed()]:
            self.pop(closed, None)
        value = self[loop] = self._make()
        return value

    def current(self) -> T:
        """The running loop's value. Raises RuntimeError outside an event loop."""
        return self[asyncio.get_running_loop()]
