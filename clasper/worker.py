"""Every periodic task there is, and the in-process worker that runs them on the server's own event loop.

The worker runs in every server process when no broker is configured, and alone as `manage.py worker`. With a broker,
`clasper.celery` makes Celery tasks and the beat schedule of the same list.
"""

from __future__ import annotations

import asyncio
import logging

from apps.agents import tasks as agents
from apps.schedule.domain import PeriodicTask
from apps.schedule.services import run_if_due
from apps.traces import tasks as traces
from clasper.core.clock import Clock, utc_now

logger = logging.getLogger("clasper.worker")


def periodic_tasks() -> list[PeriodicTask]:
    """What all apps declare."""
    return [*agents.periodic_tasks(), *traces.periodic_tasks()]


async def work(clock: Clock = utc_now) -> None:
    """Runs every task whenever it is due, until cancelled."""
    await asyncio.gather(*(_repeat(task, clock) for task in periodic_tasks()))


async def _repeat(task: PeriodicTask, clock: Clock) -> None:
    while True:
        try:
            await run_if_due(task, clock=clock)
        except Exception:
            logger.exception("background work failed", extra={"task": task.name})
        await asyncio.sleep(task.check_interval.total_seconds())
