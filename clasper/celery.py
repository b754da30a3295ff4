"""The Celery application: wakes and spreads the background work when a broker is configured.

celery -A clasper worker --beat
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "clasper.settings")

app = Celery("clasper")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["apps.agents"])


def _every(seconds: float, task: str) -> dict[str, Any]:
    """A turn of the schedule; one that no worker took in time is dropped, the next does its work."""
    return {"task": task, "schedule": seconds, "options": {"expires": seconds}}


app.conf.beat_schedule = {
    "deliver": _every(settings.CLASPER_OUTBOX_RETRY_MS / 1000, "clasper.deliver_outbox"),
    "sweep": _every(settings.CLASPER_SWEEP_SECONDS, "clasper.sweep"),
}
if settings.CLASPER_RETENTION_HOURS:
    # Looks more often than retention is due: beat forgets when it last ran, the database does not.
    app.conf.beat_schedule["retention"] = _every(
        min(3600.0, settings.CLASPER_RETENTION_HOURS * 3600), "clasper.retention"
    )
