"""The Celery application: the periodic tasks of `clasper.worker` as Celery tasks, and their beat schedule.

celery -A clasper worker --beat
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from asgiref.sync import async_to_sync
from celery import Celery
from celery.signals import import_modules

from apps.schedule.domain import PeriodicTask
from apps.schedule.services import run_if_due
from clasper.core.clock import utc_now
from clasper.gateways.http import close_session

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "clasper.settings")

app = Celery("clasper")
app.config_from_object("django.conf:settings", namespace="CELERY")


@import_modules.connect
def register(**_: Any) -> None:
    """Makes the Celery tasks and the beat schedule when Django is set up, which the apps' models need."""
    from clasper.worker import periodic_tasks

    for task in periodic_tasks():
        name, seconds = f"clasper.{task.name}", task.check_interval.total_seconds()
        app.task(name=name, ignore_result=True)(_celery_task(task))
        # A message that no worker took in time is dropped: the next one does its work.
        app.conf.beat_schedule[name] = {"task": name, "schedule": seconds, "options": {"expires": seconds}}


def _celery_task(task: PeriodicTask) -> Callable[[], None]:
    async def run_and_close() -> None:
        try:
            await run_if_due(task, clock=utc_now)
        finally:
            await close_session()

    def run() -> None:
        async_to_sync(run_and_close)()

    return run
