"""The in-process worker: the same verbs that Celery's tasks call, on the server's own event loop.

It runs in every server process when no broker is configured, and alone as `manage.py worker`. Several may run at once:
work is claimed in the tables.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from django.conf import settings

from apps.agents.services.outbox import deliver_due
from apps.agents.services.upkeep import sweep
from clasper.core.clock import utc_now

logger = logging.getLogger("clasper.worker")

LONGEST_TICK = 1.0
"""Seconds between two looks into the outbox, so that a webhook leaves about when its run ends."""


async def work() -> None:
    """Delivers and sweeps until cancelled."""
    await asyncio.gather(
        _every(min(LONGEST_TICK, settings.CLASPER_OUTBOX_RETRY_MS / 1000), _deliver),
        _every(settings.CLASPER_SWEEP_SECONDS, _sweep),
    )


async def _deliver() -> None:
    while await deliver_due(now=utc_now()):
        pass


async def _sweep() -> None:
    done = await sweep(now=utc_now())
    if done.runs or done.holds:
        logger.warning("swept what dead processes left", extra={"runs": done.runs, "holds": done.holds})


async def _every(seconds: float, job: Callable[[], Awaitable[None]]) -> None:
    """Calls `job` for ever with a pause between; a failure is logged and tried again at the next turn."""
    while True:
        try:
            await job()
        except Exception:
            logger.exception("background work failed")
        await asyncio.sleep(seconds)
