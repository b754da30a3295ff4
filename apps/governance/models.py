"""What governance stores: budgets with their holds and past periods, and daily usage."""

from __future__ import annotations

from django.db import models

from clasper.core.tables import TenantQuerySet


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
    """Money set aside for a run until its cost is known. A hold whose lease has expired belongs to a dead run."""

    trace_id = models.CharField(primary_key=True, max_length=36)
    tenant_id = models.CharField(max_length=128)
    amount = models.BigIntegerField()
    lease_until = models.DateTimeField()

    class Meta:
        db_table = "budget_holds"
        indexes = [models.Index(fields=["lease_until"], name="budget_holds_by_lease")]

    def __str__(self) -> str:
        return self.trace_id


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


class DailyUsage(models.Model):
    """What a tenant's runs used on one UTC day: usage and opening balances of budgets are read from it."""

    id = models.BigAutoField(primary_key=True)
    tenant_id = models.CharField(max_length=128)
    day = models.DateField()
    requests = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    cost = models.BigIntegerField(default=0)

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "spend_days"
        constraints = [models.UniqueConstraint(fields=["tenant_id", "day"], name="spend_days_once")]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.day}"
