"""The admin's view of the audit log, which is only read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest

from apps.audit.models import AuditEntry, AuditHead

if TYPE_CHECKING:
    BaseAdmin = admin.ModelAdmin[Any]
else:
    BaseAdmin = admin.ModelAdmin


class ReadOnlyAdmin(BaseAdmin):
    """Rows that the admin shows and never touches."""

    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    list_display = ("id", "timestamp", "tenant_id", "seq", "event_type", "actor", "trace_id")
    list_filter = ("event_type",)
    search_fields = ("=tenant_id", "=trace_id", "=actor")
    ordering = ("-id",)


@admin.register(AuditHead)
class AuditHeadAdmin(ReadOnlyAdmin):
    list_display = ("tenant_id", "seq", "hash")
    search_fields = ("=tenant_id",)
