"""Running periodic tasks, exclusive ones under a lease that outlives no process for long."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from apps.schedule.domain import PeriodicTask
from clasper.core.clock import Clock
from clasper.core.db import writer
from clasper.core.errors import Unavailable
from clasper.core.ids import new_id

logger = logging.getLogger("clasper.schedule")

LEASE = timedelta(minutes=1)
"""A holder that has not renewed its lease for this long is considered dead, and another process takes over."""

RENEWAL_SECONDS = 15.0

LONGEST_RETRY = timedelta(hours=1)
"""A failed run is repeated after the task's period, and after this at the latest."""

_CLAIM = """INSERT INTO schedule_leases (name, due_at, holder, lease_until, started_at) VALUES (%s, %s, %s, %s, %s)
 ON CONFLICT (name) DO UPDATE
 SET holder = excluded.holder, lease_until = excluded.lease_until, started_at = excluded.started_at
 WHERE schedule_leases.due_at <= excluded.started_at
 AND (schedule_leases.lease_until IS NULL OR schedule_leases.lease_until <= excluded.started_at) RETURNING name"""


@dataclass(frozen=True, slots=True)
class Lease:
    """A holder's lease of a task. What another process has taken over in the meantime is left alone."""

    name: str
    holder: str

    async def claim(self, *, now: datetime) -> bool:
        """Takes the lease if the task is due and nobody, or only a dead process, holds it; returns whether it did."""
        row = (self.name, now, self.holder, now + LEASE, now)
        return await writer.submit(lambda batch: batch.fetch_one(_CLAIM, row), alone=True) is not None

    async def renew(self, *, now: datetime) -> None:
        """Extends the lease."""
        await self._set("lease_until = %s", now + LEASE)

    async def finish(self, *, now: datetime, due_at: datetime) -> None:
        """Gives the lease back and sets when the task is due again."""
        await self._set("lease_until = NULL, finished_at = %s, due_at = %s", now, due_at)

    async def _set(self, columns: str, *values: datetime) -> None:
        sql = f"UPDATE schedule_leases SET {columns} WHERE name = %s AND holder = %s"
        await writer.submit(lambda batch: batch.execute(sql, (*values, self.name, self.holder)), alone=True)


async def run_if_due(task: PeriodicTask, *, clock: Clock) -> bool:
    """Runs an exclusive task if it is due and no other process runs it, any other task always; returns whether it ran.

    The next run is due `task.every` after the start of this one. When the task fails, its error is raised after the
    retry is scheduled. When the run is cancelled, the task stays due, so that another process can go on.
    """
    if not task.exclusive:
        await task.run(clock)
        return True
    lease = Lease(task.name, f"{socket.gethostname()[:64]}/{os.getpid()}/{new_id()}")
    due_at = started = clock()
    if not await lease.claim(now=started):
        return False
    renewals = asyncio.ensure_future(_keep(lease, clock))
    try:
        await task.run(clock)
        due_at = started + task.every
    except Exception:
        due_at = clock() + min(task.every, LONGEST_RETRY)
        raise
    finally:
        renewals.cancel()
        with suppress(Unavailable):  # the lease runs out by itself, and the task is run again
            await lease.finish(now=clock(), due_at=due_at)
    return True


async def _keep(lease: Lease, clock: Clock) -> None:
    while True:
        await asyncio.sleep(RENEWAL_SECONDS)
        try:
            await lease.renew(now=clock())
        except Unavailable:
            logger.warning("a lease could not be renewed", extra={"task": lease.name})
