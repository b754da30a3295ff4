"""Deliveries in the outbox, and answers stored for repeated requests."""

from __future__ import annotations

from django.db import models

from clasper.core.tables import TenantQuerySet


class Delivery(models.Model):
    """A message, document or webhook that a run has to deliver. The table is the queue of record.

    `sealed` is the encrypted original and is emptied when the delivery ends. Rows are claimed by moving
    `next_attempt_at` forward, so that a claim expires by itself when its process dies.
    """

    id = models.CharField(primary_key=True, max_length=36)
    tenant_id = models.CharField(max_length=128)
    trace_id = models.CharField(max_length=36)
    kind = models.CharField(max_length=16)
    position = models.SmallIntegerField(help_text="Order within the run: a document follows its message.")
    status = models.CharField(max_length=12)
    attempts = models.SmallIntegerField(default=0)
    created_at = models.DateTimeField()
    next_attempt_at = models.DateTimeField()
    last_error = models.CharField(max_length=256, default="")
    sealed = models.BinaryField()

    class Meta:
        db_table = "outbox"
        verbose_name_plural = "deliveries"
        indexes = [
            models.Index(fields=["tenant_id", "trace_id", "position"], name="outbox_by_run"),
            # The worker serves every tenant; only pending deliveries are indexed.
            models.Index(fields=["next_attempt_at"], name="outbox_due", condition=models.Q(status="pending")),
            models.Index(fields=["tenant_id", "created_at"], name="outbox_dead", condition=models.Q(status="dead")),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.trace_id}"


class StoredResponse(models.Model):
    """An Idempotency-Key: claimed when its run starts; `sealed` is the encrypted answer, once there is one."""

    id = models.BigAutoField(primary_key=True)
    tenant_id = models.CharField(max_length=128)
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64)
    trace_id = models.CharField(max_length=36)
    sealed = models.BinaryField(null=True)
    expires_at = models.DateTimeField()

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "idempotency_keys"
        constraints = [models.UniqueConstraint(fields=["tenant_id", "key"], name="idempotency_keys_once")]
        indexes = [
            models.Index(fields=["tenant_id", "trace_id"], name="idempotency_keys_by_run"),
            models.Index(fields=["expires_at"], name="idempotency_keys_expiry"),
        ]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.key}"
