"""What the embedded control plane stores: tasks with their messages and documents, used keys, and the demo shop."""

from __future__ import annotations

from django.db import models

from clasper.core.ids import new_id
from clasper.core.tables import TenantQuerySet


class ScopedRow(models.Model):
    """A row of one user of one tenant. Ids are UUIDv7, so their order is the order of time."""

    id = models.CharField(primary_key=True, max_length=36, default=new_id, editable=False)
    tenant_id = models.CharField(max_length=128)
    user_id = models.CharField(max_length=128)
    created_at = models.DateTimeField()

    objects = TenantQuerySet.as_manager()

    class Meta:
        abstract = True


class Task(ScopedRow):
    """A thread of work that messages and documents belong to."""

    title = models.TextField()
    description = models.TextField(blank=True)
    status = models.CharField(max_length=64)
    metadata = models.TextField(default="{}", help_text="JSON.")
    created_by = models.CharField(max_length=160)

    class Meta:
        db_table = "cp_tasks"
        indexes = [models.Index(fields=["tenant_id", "user_id", "id"], name="cp_tasks_by_user")]

    def __str__(self) -> str:
        return self.title


class Message(ScopedRow):
    """A message of an agent, a user or the system on a task."""

    task_id = models.CharField(max_length=36)
    content = models.TextField(blank=True)
    actor_type = models.CharField(max_length=16)
    agent_role = models.CharField(max_length=128, blank=True)
    attachments = models.TextField(default="{}", help_text="JSON.")
    trace_id = models.CharField(max_length=64, blank=True)

    class Meta:
        db_table = "cp_messages"
        indexes = [models.Index(fields=["tenant_id", "user_id", "task_id", "id"], name="cp_messages_by_task")]

    def __str__(self) -> str:
        return f"{self.actor_type} on {self.task_id}"


class Document(ScopedRow):
    """A document of a task, such as a plan."""

    task_id = models.CharField(max_length=36)
    title = models.TextField()
    content = models.TextField(blank=True)
    doc_type = models.CharField(max_length=64)
    trace_id = models.CharField(max_length=64, blank=True)

    class Meta:
        db_table = "cp_documents"
        indexes = [models.Index(fields=["tenant_id", "user_id", "task_id", "id"], name="cp_documents_by_task")]

    def __str__(self) -> str:
        return self.title


class UsedKey(ScopedRow):
    """An idempotency key with the request it was used for and the response that request got."""

    endpoint = models.CharField(max_length=160)
    key = models.CharField(max_length=255)
    request_hash = models.CharField(max_length=64)
    response = models.TextField(help_text="JSON.")

    class Meta:
        db_table = "cp_idempotency"
        constraints = [
            models.UniqueConstraint(fields=["tenant_id", "user_id", "endpoint", "key"], name="cp_idempotency_key")
        ]

    def __str__(self) -> str:
        return f"{self.endpoint} {self.key}"


class ShopCustomer(models.Model):
    """A customer of a tenant's demo shop."""

    id = models.CharField(primary_key=True, max_length=36, default=new_id, editable=False)
    tenant_id = models.CharField(max_length=128)
    number = models.CharField(max_length=32)
    name = models.CharField(max_length=128)
    email = models.CharField(max_length=128)
    city = models.CharField(max_length=128)

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "cp_shop_customers"
        constraints = [models.UniqueConstraint(fields=["tenant_id", "number"], name="cp_shop_customers_number")]

    def __str__(self) -> str:
        return f"{self.number} {self.name}"


class ShopOrder(models.Model):
    """An order in a tenant's demo shop. Money is in cents."""

    id = models.CharField(primary_key=True, max_length=36, default=new_id, editable=False)
    tenant_id = models.CharField(max_length=128)
    number = models.CharField(max_length=32)
    customer_number = models.CharField(max_length=32)
    status = models.CharField(max_length=32)
    items = models.TextField(help_text="JSON.")
    total_cents = models.BigIntegerField()
    refunded_cents = models.BigIntegerField(default=0)
    placed_at = models.DateTimeField()

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "cp_shop_orders"
        constraints = [
            models.UniqueConstraint(fields=["tenant_id", "number"], name="cp_shop_orders_number"),
            models.CheckConstraint(
                condition=models.Q(refunded_cents__gte=0) & models.Q(refunded_cents__lte=models.F("total_cents")),
                name="cp_shop_orders_refunded",
            ),
        ]

    def __str__(self) -> str:
        return self.number


class ShopRefund(models.Model):
    """Money that an agent paid back."""

    id = models.CharField(primary_key=True, max_length=36, default=new_id, editable=False)
    tenant_id = models.CharField(max_length=128)
    order_number = models.CharField(max_length=32)
    amount_cents = models.BigIntegerField()
    reason = models.TextField()
    actor = models.CharField(max_length=160)
    trace_id = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField()

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "cp_shop_refunds"
        indexes = [models.Index(fields=["tenant_id", "order_number"], name="cp_shop_refunds_by_order")]

    def __str__(self) -> str:
        return f"{self.order_number} {self.amount_cents}"
