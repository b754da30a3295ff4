"""The periodic task of traces: retention."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection

from apps.schedule.domain import PeriodicTask
from apps.traces.services.enforcement import enforce_all
from clasper.core.clock import Clock

logger = logging.getLogger("clasper.retention")

ACTOR = "system:retention"


class RetentionIncomplete(Exception):
    """Some tenants' policies could not be enforced to the end; the log says why."""


def periodic_tasks() -> list[PeriodicTask]:
    """Enforcing all retention policies, unless the settings leave that to the operator."""
    every = timedelta(hours=settings.CLASPER_RETENTION_HOURS)
    return [PeriodicTask(name="retention", every=every, run=_enforce)] if every else []


async def _enforce(clock: Clock) -> None:
    """Enforces in a thread; a stopping process ends the work early and does not wait for the end."""
    stop = threading.Event()
    try:
        await asyncio.to_thread(_enforce_in_thread, clock(), stop.is_set)
    finally:
        stop.set()


def _enforce_in_thread(now: datetime, stopped: Callable[[], bool]) -> None:
    try:
        results = enforce_all(actor=ACTOR, now=now, stopped=stopped)
    finally:
        connection.close()
    for done in results:
        facts = {"tenant_id": done.tenant_id, "deleted": done.deleted, "stripped": done.stripped}
        logger.info("enforced retention", extra=facts)
    if not all(done.complete for done in results):
        raise RetentionIncomplete
