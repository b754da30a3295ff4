"""Governance's doors over HTTP, and the guard that every other app's doors stand behind."""

from __future__ import annotations

from apps.governance.api.auth import (
    CredentialAuthentication,
    ScopePermission,
    asked,
    principal_of,
    require_platform,
    tenant_of,
)

__all__ = ["CredentialAuthentication", "ScopePermission", "asked", "principal_of", "require_platform", "tenant_of"]
