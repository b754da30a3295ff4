"""What governance remembers: API keys, the audit log and its chain heads, budgets with their holds, spend by day."""

from __future__ import annotations

from django.db import models

from clasper.core.ids import new_id
from clasper.core.tables import AppendOnlyModel, TenantQuerySet


class ApiKey(models.Model):
    """A tenant's credential. Only the SHA-256 of the secret is kept; the key itself is shown once."""

    id = models.CharField(primary_key=True, max_length=36, default=new_id, editable=False)
    tenant_id = models.CharField(max_length=128)
    name = models.CharField(max_length=128, blank=True)
    prefix = models.CharField(max_length=16, editable=False, help_text="The first characters, to recognise a key by.")
    secret_hash = models.CharField(max_length=64, unique=True, editable=False)
    scopes = models.TextField(help_text="Comma-separated scopes, or *.")
    allowed_tools = models.TextField(default="*", blank=True, help_text="Comma-separated names, ns:*, or *.")
    denied_tools = models.TextField(default="", blank=True)
    allowed_models = models.TextField(default="", blank=True, help_text="Empty: every model.")
    allowed_skills = models.TextField(default="", blank=True, help_text="Empty: every skill.")
    max_output_tokens = models.PositiveIntegerField(null=True, blank=True, help_text="Most output tokens a request.")
    rate_limit = models.CharField(max_length=32, default="", blank=True, help_text="For example 100/minute.")
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=128)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "api_keys"
        indexes = [models.Index(fields=["tenant_id", "created_at"], name="api_keys_by_tenant")]
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.prefix}… ({self.tenant_id})"


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

    `counts` is a JSON object of event type → entries. It stands in the row that every append changes anyway.
    """

    tenant_id = models.CharField(primary_key=True, max_length=128)
    seq = models.BigIntegerField()
    hash = models.CharField(max_length=64)
    counts = models.TextField(default="{}", db_default="{}")

    class Meta:
        db_table = "audit_heads"

    def __str__(self) -> str:
        return f"{self.tenant_id} #{self.seq}"


class Budget(models.Model):
    """A tenant's budget in its current period. Invariant: spent + reserved ≤ hard_limit at every instant.

    Amounts are nano-USD. `hard_limit` null means that spending is only watched, never refused.
    """

    tenant_id = models.CharField(primary_key=True, max_length=128)
    limit = models.BigIntegerField()
    soft_limit = models.BigIntegerField()
    hard_limit = models.BigIntegerField(null=True)
    period = models.CharField(max_length=8)
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    spent = models.BigIntegerField(default=0)
    reserved = models.BigIntegerField(default=0)
    warned = models.BooleanField(default=False, help_text="The soft limit was crossed and reported in this period.")
    allow_unpriced = models.BooleanField(default=False, help_text="Estimate unknown models at a ceiling price.")
    updated_at = models.DateTimeField()

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "tenant_budgets"
        constraints = [
            models.CheckConstraint(condition=models.Q(reserved__gte=0), name="budget_reserved_not_negative"),
        ]

    def __str__(self) -> str:
        return self.tenant_id


class BudgetHold(models.Model):
    """Money set aside for a run until its cost is known. A hold whose lease is over belongs to a dead run."""

    run_id = models.CharField(primary_key=True, max_length=36)
    tenant_id = models.CharField(max_length=128)
    amount = models.BigIntegerField()
    lease_until = models.DateTimeField()

    class Meta:
        db_table = "budget_holds"
        indexes = [models.Index(fields=["lease_until"], name="budget_holds_by_lease")]

    def __str__(self) -> str:
        return self.run_id


class BudgetPeriod(models.Model):
    """A period that is over: what was allowed and what was spent."""

    id = models.BigAutoField(primary_key=True)
    tenant_id = models.CharField(max_length=128)
    period = models.CharField(max_length=8)
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    limit = models.BigIntegerField()
    spent = models.BigIntegerField()

    class Meta:
        db_table = "budget_periods"
        constraints = [
            models.UniqueConstraint(fields=["tenant_id", "period_start", "period"], name="budget_period_once")
        ]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.period_start:%Y-%m-%d}"


class SpendDay(models.Model):
    """What a tenant's runs used on one UTC day: the ledger behind usage and every budget's opening balance."""

    id = models.BigAutoField(primary_key=True)
    tenant_id = models.CharField(max_length=128)
    day = models.DateField()
    requests = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    cost = models.BigIntegerField(default=0)

    class Meta:
        db_table = "spend_days"
        constraints = [models.UniqueConstraint(fields=["tenant_id", "day"], name="spend_days_once")]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.day}"
