"""What agents wrote; nothing can be changed here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest

from apps.control_plane.models import Document, Message, ShopOrder, ShopRefund, Task

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
else:
    _ModelAdmin = admin.ModelAdmin  # Django's own class takes no parameters


class ReadOnlyAdmin(_ModelAdmin):
    """Rows can only be read."""

    list_filter = ("tenant_id",)
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Task)
class TaskAdmin(ReadOnlyAdmin):
    """Tasks."""

    list_display = ("title", "status", "tenant_id", "user_id", "created_at")
    search_fields = ("=id", "title")


@admin.register(Message)
class MessageAdmin(ReadOnlyAdmin):
    """Messages."""

    list_display = ("task_id", "actor_type", "agent_role", "tenant_id", "created_at")
    search_fields = ("=task_id", "=trace_id")


@admin.register(Document)
class DocumentAdmin(ReadOnlyAdmin):
    """Documents."""

    list_display = ("title", "doc_type", "tenant_id", "created_at")
    search_fields = ("=task_id", "=trace_id", "title")


@admin.register(ShopOrder)
class ShopOrderAdmin(ReadOnlyAdmin):
    """Orders of the demo shops."""

    list_display = ("number", "status", "total_cents", "refunded_cents", "tenant_id")
    search_fields = ("=number",)


@admin.register(ShopRefund)
class ShopRefundAdmin(ReadOnlyAdmin):
    """Refunds of the demo shops."""

    list_display = ("order_number", "amount_cents", "actor", "tenant_id", "created_at")
    search_fields = ("=order_number", "=trace_id")
