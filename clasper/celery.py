"""The Celery application: wakes and spreads the background work when a broker is configured.

celery -A clasper worker --beat
"""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "clasper.settings")

app = Celery("clasper")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["apps.agents"])
