"""The periodic tasks of runs, and what wakes the workers before the schedule would."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from celery import current_app
from django.conf import settings

from apps.agents.delivery.outbox import deliver_due
from apps.agents.delivery.sweeper import sweep
from apps.schedule.domain import PeriodicTask
from clasper.core.clock import Clock

logger = logging.getLogger("clasper.tasks")

UNWOKEN_INTERVAL = timedelta(seconds=1)
"""How often the outbox is looked at without a broker, so that a webhook leaves about when its run ends."""


def periodic_tasks() -> list[PeriodicTask]:
    """The outbox, whose rows are claimed one by one, and the sweeper."""
    deliver_every = timedelta(milliseconds=settings.CLASPER_OUTBOX_RETRY_MS)
    if not settings.CELERY_BROKER_URL:
        deliver_every = min(deliver_every, UNWOKEN_INTERVAL)
    return [
        PeriodicTask(name="deliver_outbox", every=deliver_every, run=_deliver, exclusive=False),
        PeriodicTask(name="sweep", every=timedelta(seconds=settings.CLASPER_SWEEP_SECONDS), run=_sweep),
    ]


async def wake_workers() -> None:
    """Has the outbox delivered now. Without a broker the in-process worker looks by itself, so this does nothing."""
    if settings.CELERY_BROKER_URL:
        try:
            # Celery finds the broker itself: it reads CELERY_BROKER_URL from the environment.
            await asyncio.to_thread(current_app.send_task, "clasper.deliver_outbox", ignore_result=True)
        except Exception:
            logger.warning("the broker could not be reached; the schedule will deliver", exc_info=True)


async def _deliver(clock: Clock) -> None:
    while await deliver_due(now=clock()):
        pass


async def _sweep(clock: Clock) -> None:
    done = await sweep(now=clock())
    if done.runs or done.holds:
        logger.warning("swept what dead processes left", extra={"runs": done.runs, "holds": done.holds})
