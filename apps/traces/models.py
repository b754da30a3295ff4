"""What is stored of runs: traces, steps, payloads, labels, skills, annotations and day sums; and retention policies."""

from __future__ import annotations

from django.db import models

from clasper.core.tables import TenantQuerySet


class Trace(models.Model):
    """One run. Everything a list filters by is a column here; texts live in TracePayload."""

    id = models.CharField(primary_key=True, max_length=36)
    tenant_id = models.CharField(max_length=128)
    workspace_id = models.CharField(max_length=64)
    environment = models.CharField(max_length=64)
    agent_id = models.CharField(max_length=64)
    user_id = models.CharField(max_length=128)
    kind = models.CharField(max_length=16)
    status = models.CharField(max_length=12)
    error_code = models.CharField(max_length=64, default="")
    error = models.TextField(default="")
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    duration_ms = models.IntegerField(null=True)
    lease_until = models.DateTimeField(null=True)
    provider = models.CharField(max_length=32, default="")
    model = models.CharField(max_length=128, default="")
    input_tokens = models.IntegerField(default=0)
    cached_tokens = models.IntegerField(default=0)
    cache_write_tokens = models.IntegerField(default=0)
    output_tokens = models.IntegerField(default=0)
    reasoning_tokens = models.IntegerField(default=0)
    cost = models.BigIntegerField(default=0)
    price_version = models.CharField(max_length=64, default="")
    estimated = models.BooleanField(default=False)
    risk_score = models.SmallIntegerField(default=0)
    risk_level = models.CharField(max_length=8, default="low")
    risk_factors = models.TextField(default="{}")
    snapshot_hash = models.CharField(max_length=80, default="")
    redactions = models.IntegerField(default=0)
    task_id = models.CharField(max_length=128, default="")
    message_id = models.CharField(max_length=128, default="")
    document_id = models.CharField(max_length=128, default="")
    replay_of = models.CharField(max_length=36, default="")
    storage_mode = models.CharField(max_length=8, default="full", help_text="What retention has left of its texts.")

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "traces"
        indexes = [
            models.Index(fields=["tenant_id", "started_at", "id"], name="traces_by_time"),
            models.Index(fields=["tenant_id", "status", "started_at", "id"], name="traces_by_status"),
            models.Index(fields=["tenant_id", "agent_id", "started_at", "id"], name="traces_by_agent"),
            models.Index(fields=["tenant_id", "model", "started_at", "id"], name="traces_by_model"),
            models.Index(fields=["tenant_id", "workspace_id", "started_at", "id"], name="traces_by_workspace"),
            models.Index(fields=["tenant_id", "risk_level", "started_at", "id"], name="traces_by_risk"),
            models.Index(fields=["tenant_id", "user_id", "started_at", "id"], name="traces_by_user"),
            models.Index(fields=["tenant_id", "task_id"], name="traces_by_task", condition=~models.Q(task_id="")),
            models.Index(
                fields=["tenant_id", "document_id"], name="traces_by_document", condition=~models.Q(document_id="")
            ),
            models.Index(
                fields=["tenant_id", "message_id"], name="traces_by_message", condition=~models.Q(message_id="")
            ),
            models.Index(
                fields=["tenant_id", "kind", "started_at", "id"],
                name="traces_by_rare_kind",
                condition=~models.Q(kind__in=["send", "stream"]),
            ),
            # The platform's own lists, of all tenants.
            models.Index(fields=["started_at", "id"], name="traces_by_start"),
            # The sweeper looks for running traces of every tenant, and there are never many.
            models.Index(fields=["lease_until"], name="traces_running", condition=models.Q(status="running")),
        ]

    def __str__(self) -> str:
        return self.id


class TraceStep(models.Model):
    """One step of a run: a model call, a tool call, an error. Facts only; see TracePayload for texts."""

    id = models.BigAutoField(primary_key=True)
    tenant_id = models.CharField(max_length=128)
    trace_id = models.CharField(max_length=36)
    seq = models.SmallIntegerField()
    type = models.CharField(max_length=16)
    name = models.CharField(max_length=128)
    provider = models.CharField(max_length=32, default="")
    status = models.CharField(max_length=16)
    code = models.CharField(max_length=64, default="")
    started_at = models.DateTimeField()
    duration_ms = models.IntegerField()
    attempt = models.SmallIntegerField(default=1)
    prompt_tokens = models.IntegerField(default=0)
    completion_tokens = models.IntegerField(default=0)
    cost = models.BigIntegerField(default=0)

    class Meta:
        db_table = "trace_steps"
        constraints = [models.UniqueConstraint(fields=["tenant_id", "trace_id", "seq"], name="trace_steps_order")]

    def __str__(self) -> str:
        return f"{self.trace_id} {self.seq} {self.type}"


class TracePayload(models.Model):
    """The redacted texts of a run (`seq` 0) or of one of its steps, as JSON; what retention strips."""

    id = models.BigAutoField(primary_key=True)
    tenant_id = models.CharField(max_length=128)
    trace_id = models.CharField(max_length=36)
    seq = models.SmallIntegerField()
    input = models.TextField(null=True)  # noqa: DJ001  null says stripped, empty says there was nothing
    output = models.TextField(null=True)  # noqa: DJ001

    class Meta:
        db_table = "trace_payloads"
        constraints = [models.UniqueConstraint(fields=["tenant_id", "trace_id", "seq"], name="trace_payloads_once")]

    def __str__(self) -> str:
        return f"{self.trace_id} {self.seq}"


class TraceLabel(models.Model):
    """A key and value that people and callers put on a trace."""

    id = models.BigAutoField(primary_key=True)
    tenant_id = models.CharField(max_length=128)
    trace_id = models.CharField(max_length=36)
    key = models.CharField(max_length=64)
    value = models.CharField(max_length=256)
    started_at = models.DateTimeField(help_text="When the trace began: the indexes give its runs newest first.")

    class Meta:
        db_table = "trace_labels"
        constraints = [models.UniqueConstraint(fields=["tenant_id", "trace_id", "key"], name="trace_labels_once")]
        indexes = [
            models.Index(fields=["tenant_id", "key", "value", "started_at", "trace_id"], name="trace_labels_by_value"),
            models.Index(fields=["tenant_id", "key", "started_at", "trace_id"], name="trace_labels_by_key"),
        ]

    def __str__(self) -> str:
        return f"{self.trace_id} {self.key}={self.value}"


class TraceSkill(models.Model):
    """A skill that was part of the run's prompt, with its version."""

    id = models.BigAutoField(primary_key=True)
    tenant_id = models.CharField(max_length=128)
    trace_id = models.CharField(max_length=36)
    name = models.CharField(max_length=64)
    version = models.CharField(max_length=80)

    class Meta:
        db_table = "trace_skills"
        constraints = [models.UniqueConstraint(fields=["tenant_id", "trace_id", "name"], name="trace_skills_once")]

    def __str__(self) -> str:
        return f"{self.trace_id} {self.name}@{self.version}"


class TraceAnnotation(models.Model):
    """A note on a trace; notes are added and never changed, and go with their trace."""

    id = models.BigAutoField(primary_key=True)
    tenant_id = models.CharField(max_length=128)
    trace_id = models.CharField(max_length=36)
    key = models.CharField(max_length=64)
    value = models.TextField()
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=160)

    class Meta:
        db_table = "trace_annotations"
        indexes = [
            models.Index(fields=["tenant_id", "trace_id", "id"], name="trace_annotations_of"),
            models.Index(fields=["tenant_id", "key", "trace_id"], name="trace_annotations_by_key"),
        ]

    def __str__(self) -> str:
        return f"{self.trace_id} {self.key}"


class RetentionPolicy(models.Model):
    """How long a tenant's traces are kept, which of them, and with how much of their texts."""

    id = models.BigAutoField(primary_key=True)
    tenant_id = models.CharField(max_length=128, unique=True)
    retention_days = models.IntegerField()
    sampling_strategy = models.CharField(max_length=12)
    sample_rate = models.FloatField()
    storage_mode = models.CharField(max_length=8)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "retention_policies"
        verbose_name_plural = "retention policies"

    def __str__(self) -> str:
        return f"{self.tenant_id}: {self.retention_days} days"


class Rollup(models.Model):
    """Sums of a tenant's runs by day and dimension, kept when a run settles, so that dashboards never scan traces."""

    id = models.BigAutoField(primary_key=True)
    tenant_id = models.CharField(max_length=128)
    day = models.DateField()
    dimension = models.CharField(max_length=16)
    value = models.CharField(max_length=128)
    runs = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    cost = models.BigIntegerField(default=0)
    duration_ms = models.BigIntegerField(default=0)

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "trace_rollups"
        constraints = [
            models.UniqueConstraint(fields=["tenant_id", "dimension", "day", "value"], name="trace_rollups_once")
        ]
        indexes = [models.Index(fields=["dimension", "day"], name="trace_rollups_of_all")]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.day} {self.dimension}={self.value}"
