"""What a periodic task is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from clasper.core.clock import Clock

CHECKS_PER_PERIOD = 4
LONGEST_CHECK_INTERVAL = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodicTask:
    """Work that is due `every` so often. A run that fails raises; a run that is stopped is cancelled.

    Of an exclusive task one process at a time makes one run a period. Any other task runs in every process: it claims
    each piece of its work in the database. Either way a run must tolerate another one beside it, because a process
    that was only slow may be taken for dead. `name` also names the lease and, after `clasper.`, the Celery task.
    """

    name: str
    every: timedelta
    run: Callable[[Clock], Awaitable[None]]
    exclusive: bool = True

    @property
    def check_interval(self) -> timedelta:
        """How often each process checks whether the task is due.

        Several times a period, because a check just before the task is due must not cost a whole period.
        """
        return min(self.every / CHECKS_PER_PERIOD, LONGEST_CHECK_INTERVAL) if self.exclusive else self.every
