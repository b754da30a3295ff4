"""Whose data a scope reaches."""

from __future__ import annotations

import pytest

from clasper.core.tenancy import ALL_TENANTS, AllTenants, OneTenant, TenantScope


@pytest.mark.parametrize(
    ("scope", "reached", "chain"),
    [
        (OneTenant("acme"), {"acme"}, "acme"),
        (OneTenant(""), {""}, ""),
        (ALL_TENANTS, {"acme", "globex", ""}, ""),
    ],
    ids=["one", "the platform itself", "all"],
)
def test_what_a_scope_reaches(scope: TenantScope, reached: set[str], chain: str) -> None:
    assert {tenant for tenant in ("acme", "globex", "") if scope.includes(tenant)} == reached
    assert scope.audit_chain == chain


def test_scopes_are_values() -> None:
    assert OneTenant("acme") == OneTenant("acme") != OneTenant("globex")
    assert AllTenants() == ALL_TENANTS != OneTenant("")
