"""The admin's view of API keys, which are created and revoked through the services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from apps.identity.models import ApiKey
from apps.identity.services.keys import KeyLimits, create_api_key, key_errors, limits_in, names_in, revoke_api_key
from clasper.core.clock import utc_now
from clasper.core.tenancy import ALL_TENANTS

if TYPE_CHECKING:
    BaseAdmin = admin.ModelAdmin[Any]
    KeyFormBase = forms.ModelForm[ApiKey]
else:
    BaseAdmin = admin.ModelAdmin
    KeyFormBase = forms.ModelForm

KEY_FIELDS = ("tenant_id", "name", "scopes", "expires_at", *KeyLimits.__struct_fields__)


def admin_actor(request: HttpRequest) -> str:
    """The signed-in person as audit entries name them; cut to the size of a key's `created_by`."""
    return f"user:{request.user.get_username()}"[:128]


class ApiKeyForm(KeyFormBase):
    class Meta:
        model = ApiKey
        fields = KEY_FIELDS

    def clean(self) -> dict[str, Any]:
        """Adds the service's own errors to the fields they are about."""
        cleaned = super().clean() or self.cleaned_data
        if not self.errors:
            for field, texts in key_errors(actor="", now=utc_now(), **key_arguments(cleaned)).items():
                self.add_error(field, texts)
        return cleaned


def key_arguments(cleaned: dict[str, Any]) -> dict[str, Any]:
    """The form's values as the service takes them."""
    return {
        "tenant_id": cleaned["tenant_id"],
        "name": cleaned["name"],
        "scopes": names_in(cleaned["scopes"]),
        "expires_at": cleaned["expires_at"],
        "limits": limits_in(cleaned),
    }


@admin.register(ApiKey)
class ApiKeyAdmin(BaseAdmin):
    form = ApiKeyForm
    fields = KEY_FIELDS
    list_display = ("prefix", "tenant_id", "name", "scopes", "created_at", "expires_at", "revoked_at", "last_used_at")
    list_filter = ("tenant_id",)
    search_fields = ("id", "prefix", "name")
    ordering = ("-created_at",)
    actions = ("revoke",)

    def has_change_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        """Keys are never edited; the list stays open to those who may change, for the revoke action."""
        return obj is None and super().has_change_permission(request)

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: ApiKey, form: forms.ModelForm[ApiKey], change: bool) -> None:
        new = create_api_key(actor=admin_actor(request), now=utc_now(), **key_arguments(form.cleaned_data))
        obj.pk = new.id
        self.message_user(request, f"Keep the key now, it cannot be shown again: {new.key}", messages.WARNING)

    @admin.action(description="Revoke the selected keys", permissions=["change"])
    def revoke(self, request: HttpRequest, chosen: QuerySet[ApiKey]) -> None:
        for key_id in chosen.values_list("id", flat=True):
            revoke_api_key(key_id=key_id, actor=admin_actor(request), now=utc_now(), tenants=ALL_TENANTS)
        self.message_user(request, "The keys are revoked; they stop working within seconds.", messages.SUCCESS)
