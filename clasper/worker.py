"""The in-process worker: the same verbs that Celery's tasks call, on the server's own event loop.

It runs in every server process when no broker is configured, and alone as `manage.py worker`. Several may run at once:
work is claimed in the tables.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta

from django.conf import settings
from django.db import connection

from apps.agents.delivery.outbox import deliver_due
from apps.agents.delivery.sweeper import sweep
from apps.traces.services.enforcement import enforce_due
from clasper.core.clock import utc_now

logger = logging.getLogger("clasper.worker")

LONGEST_TICK = 1.0
"""Seconds between two looks into the outbox, so that a webhook leaves about when its run ends."""

RETENTION_TICK = 3600.0
"""Seconds between two looks whether retention is due: another process may have died since it took its turn."""


async def work() -> None:
    """Delivers, sweeps and enforces retention until cancelled."""
    jobs = [
        _every(min(LONGEST_TICK, settings.CLASPER_OUTBOX_RETRY_MS / 1000), _deliver),
        _every(settings.CLASPER_SWEEP_SECONDS, _sweep),
    ]
    if settings.CLASPER_RETENTION_HOURS:
        jobs.append(_every(min(RETENTION_TICK, settings.CLASPER_RETENTION_HOURS * 3600), _retain))
    await asyncio.gather(*jobs)


async def _deliver() -> None:
    while await deliver_due(now=utc_now()):
        pass


async def _sweep() -> None:
    done = await sweep(now=utc_now())
    if done.runs or done.holds:
        logger.warning("swept what dead processes left", extra={"runs": done.runs, "holds": done.holds})


async def _retain() -> None:
    """Enforces retention in a thread of its own; a stopping server does not wait for its end."""
    stop = threading.Event()
    try:
        await asyncio.to_thread(_retain_now, stop)
    finally:
        stop.set()


def _retain_now(stop: threading.Event) -> None:
    try:
        every = timedelta(hours=settings.CLASPER_RETENTION_HOURS)
        for done in enforce_due(now=utc_now(), every=every, stopped=stop.is_set) or ():
            facts = {"tenant_id": done.tenant_id, "deleted": done.deleted, "stripped": done.stripped}
            logger.info("enforced retention", extra=facts)
    finally:
        connection.close()


async def _every(seconds: float, job: Callable[[], Awaitable[None]]) -> None:
    """Calls `job` for ever with a pause between; a failure is logged and tried again at the next turn."""
    while True:
        try:
            await job()
        except Exception:
            logger.exception("background work failed")
        await asyncio.sleep(seconds)
