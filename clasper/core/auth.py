"""The authenticated caller, as every entry point sees it. The identity app checks the credentials."""

from __future__ import annotations

from dataclasses import dataclass

from clasper.core.tenancy import TenantScope

ALL = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """An authenticated caller.

    `actor` is the name in audit entries, `type:id`. `tenants` is the key's own tenant, or all of them for the platform,
    which may name any. `scopes` contains scope names or `*`. The other fields limit the caller's runs; None: no limit.
    """

    actor: str
    tenants: TenantScope
    scopes: frozenset[str]
    allowed_tools: frozenset[str] = frozenset({ALL})
    denied_tools: frozenset[str] = frozenset()
    allowed_models: frozenset[str] | None = None
    allowed_skills: frozenset[str] | None = None
    max_output_tokens: int | None = None
    rate_limit: str = ""

    def has(self, scope: str) -> bool:
        """Whether the principal has `scope`."""
        return scope in self.scopes or ALL in self.scopes
