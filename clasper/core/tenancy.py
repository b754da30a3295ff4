"""Whose data an operation may reach.

Services take a `TenantScope`, so that reaching every tenant has to be written out. Nothing else means it: neither a
tenant that was forgotten nor an empty one. Code that treats the two cases differently asks for AllTenants, so that a
value that is not a scope fails instead of opening everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class OneTenant:
    """The data of one tenant; `""` has only what belongs to the platform itself, such as its audit chain."""

    tenant_id: str

    @property
    def audit_chain(self) -> str:
        """The tenant in whose audit chain an operation on this scope is recorded."""
        return self.tenant_id

    def includes(self, tenant_id: str) -> bool:
        """Whether the scope reaches this tenant's data."""
        return tenant_id == self.tenant_id


@dataclass(frozen=True, slots=True)
class AllTenants:
    """The data of every tenant: for the platform only."""

    @property
    def audit_chain(self) -> str:
        """The platform's own chain."""
        return ""

    def includes(self, tenant_id: str) -> bool:
        """Always true."""
        return True


TenantScope = OneTenant | AllTenants

ALL_TENANTS: Final = AllTenants()
