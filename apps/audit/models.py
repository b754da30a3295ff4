"""The audit log and the heads of its chains."""

from __future__ import annotations

from django.db import models

from clasper.core.tables import AppendOnlyModel, TenantQuerySet


class AuditEntry(AppendOnlyModel):
    """One fact that can be proved later. `details` is the canonical JSON that the hash covers."""

    id = models.BigAutoField(primary_key=True)
    tenant_id = models.CharField(max_length=128)
    seq = models.BigIntegerField()
    timestamp = models.DateTimeField()
    event_type = models.CharField(max_length=64)
    trace_id = models.CharField(max_length=36, null=True)  # noqa: DJ001  the API shows null where no run is meant
    actor = models.CharField(max_length=256)
    details = models.TextField()
    prev_hash = models.CharField(max_length=64)
    hash = models.CharField(max_length=64)

    class Meta:
        db_table = "audit_log"
        verbose_name_plural = "audit entries"
        constraints = [models.UniqueConstraint(fields=["tenant_id", "seq"], name="audit_log_seq")]
        indexes = [
            models.Index(fields=["tenant_id", "timestamp", "id"], name="audit_log_by_time"),
            models.Index(fields=["tenant_id", "event_type", "id"], name="audit_log_by_type"),
            models.Index(fields=["tenant_id", "actor", "id"], name="audit_log_by_actor"),
            models.Index(fields=["tenant_id", "trace_id"], name="audit_log_by_trace"),
        ]

    def __str__(self) -> str:
        return f"{self.tenant_id} #{self.seq} {self.event_type}"


class AuditHead(models.Model):
    """The end of a tenant's chain: locked while entries are appended, so that the sequence has no gap and no fork.

    `counts` is a JSON object of event type → entries. It is part of the row that every append changes anyway.
    """

    tenant_id = models.CharField(primary_key=True, max_length=128)
    seq = models.BigIntegerField()
    hash = models.CharField(max_length=64)
    counts = models.TextField(default="{}", db_default="{}")

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "audit_heads"

    def __str__(self) -> str:
        return f"{self.tenant_id} #{self.seq}"
