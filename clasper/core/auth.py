"""Who is calling: the Principal every door works with. How credentials are checked is governance's business."""

from __future__ import annotations

from dataclasses import dataclass

ALL = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """An authenticated caller.

    `actor` is what audit entries name, `type:id`. `tenant_id` is None for the platform (may name any tenant).
    `scopes` holds scope names or `*`. The limits narrow what its runs may do; None means not narrowed.
    """

    actor: str
    tenant_id: str | None
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
