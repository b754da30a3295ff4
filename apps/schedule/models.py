"""Who runs which periodic task, and when it is due again."""

from __future__ import annotations

from django.db import models


class ScheduleLease(models.Model):
    """The one row of an exclusive periodic task; whoever runs the task holds the lease and renews it."""

    name = models.CharField(primary_key=True, max_length=64)
    due_at = models.DateTimeField(help_text="When the next run may start, unless the lease is held.")
    holder = models.CharField(max_length=160, help_text="The process of the current or last run.")
    lease_until = models.DateTimeField(null=True, help_text="Empty when no run is under way.")
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "schedule_leases"

    def __str__(self) -> str:
        return f"{self.name}, due {self.due_at:%Y-%m-%d %H:%M}"
