"""Background work as Celery tasks, and the nudge that wakes it. The tables are the queue of record in every mode:
a task only does now what the in-process worker would have done at its next tick."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from asgiref.sync import async_to_sync
from celery import shared_task
from django.conf import settings

from apps.agents.delivery.outbox import deliver_due
from apps.agents.delivery.sweeper import sweep
from apps.traces.services.enforcement import enforce_due
from clasper.core.clock import utc_now
from clasper.gateways.http import close_session

logger = logging.getLogger("clasper.tasks")


@shared_task(name="clasper.deliver_outbox", ignore_result=True)
def deliver_outbox() -> int:
    """Delivers what is due; gives the number of attempts."""
    return async_to_sync(_deliver_all)()


@shared_task(name="clasper.sweep", ignore_result=True)
def sweep_runs() -> int:
    """Ends dead runs, frees their money, rolls budgets over; gives the number of runs swept."""
    return async_to_sync(_sweep)()


@shared_task(name="clasper.retention", ignore_result=True)
def enforce_retention() -> int:
    """Enforces every retention policy when that is due; gives the number of traces deleted."""
    done = enforce_due(now=utc_now(), every=timedelta(hours=settings.CLASPER_RETENTION_HOURS))
    return sum(each.deleted for each in done or ())


async def nudge() -> None:
    """Tells the workers that something is due now. Without a broker the in-process worker looks by itself."""
    if settings.CELERY_BROKER_URL:
        try:
            await asyncio.to_thread(deliver_outbox.delay)
        except Exception:
            logger.warning("the broker could not be nudged; the schedule will deliver", exc_info=True)


async def _deliver_all() -> int:
    try:
        total = 0
        while done := await deliver_due(now=utc_now()):
            total += done
        return total
    finally:
        await close_session()


async def _sweep() -> int:
    return (await sweep(now=utc_now())).runs
