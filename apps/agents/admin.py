"""The outbox for operators: pending and dead deliveries, and trying them again."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from apps.agents.delivery.outbox import retry_deliveries
from apps.agents.models import Delivery
from clasper.core.clock import utc_now


@admin.register(Delivery)
class DeliveryAdmin(admin.ModelAdmin[Delivery]):
    """Read-only but for the retry."""

    list_display = ("created_at", "tenant_id", "kind", "status", "attempts", "next_attempt_at", "last_error")
    list_filter = ("status", "kind")
    search_fields = ("trace_id", "tenant_id")
    exclude = ("sealed",)
    actions = ("retry",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Delivery | None = None) -> bool:
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: Delivery | None = None) -> list[str]:
        return [field.name for field in Delivery._meta.fields if field.name != "sealed"]

    @admin.action(description="Try again now")
    def retry(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        ids = list(queryset.values_list("id", flat=True))
        count = retry_deliveries(ids=ids, actor=f"user:{request.user.pk}", now=utc_now())
        self.message_user(request, f"{count} deliveries will be tried again.")
