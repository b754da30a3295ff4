"""Tenants' API keys."""

from __future__ import annotations

from django.db import models

from clasper.core.ids import new_id
from clasper.core.tables import TenantQuerySet


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
