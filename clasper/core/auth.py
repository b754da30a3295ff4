"""Who is calling. How credentials are checked is the business of `apps.identity`."""

from __future__ import annotations

from dataclasses import dataclass

from clasper.core.tenancy import TenantScope

ALL = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """An authenticated caller.

    `actor` is what audit entries name, `type:id`. `tenants` is the key's own tenant, or all of them for the platform,
    which may name any. `scopes` holds scope names or `*`. The limits narrow what its runs may do; None does not.
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
        """Whether the principal holds `scope`."""
        return scope in self.scopes or ALL in self.scopes
