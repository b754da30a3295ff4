"""`manage.py worker`: background work in a process of its own."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from django.core.management.base import BaseCommand

from clasper.core.db import writer
from clasper.gateways.http import close_session
from clasper.worker import work


class Command(BaseCommand):
    """Runs the periodic tasks until stopped."""

    help = (
        "Runs the periodic tasks until stopped: delivers the outbox (backend writes, webhooks), sweeps dead runs, "
        "rolls budgets over, enforces retention. Servers do this themselves unless CELERY_BROKER_URL is set. "
        "Any number of workers may run. "
        "Example: manage.py worker"
    )

    def handle(self, *args: Any, **options: Any) -> None:
        asyncio.run(_until_stopped())


async def _until_stopped() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    background = asyncio.ensure_future(work())
    await stop.wait()
    background.cancel()
    await asyncio.gather(background, return_exceptions=True)
    await close_session()
    writer.close()
