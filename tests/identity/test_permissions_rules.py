"""Scopes, grants and tenants: tables of who may do what."""

from __future__ import annotations

import pytest

from apps.identity.domain.permissions import (
    AGENTS_RUN,
    SCOPES,
    TRACES_READ,
    check_scope,
    match_grant,
    model_permitted,
    resolve_tenant,
    run_tenant,
    tool_permitted,
    unknown_scopes,
)
from clasper.core.auth import Principal
from clasper.core.errors import PermissionDenied
from clasper.core.tenancy import ALL_TENANTS, OneTenant, TenantScope

PLATFORM = Principal(actor="system:daemon", tenants=ALL_TENANTS, scopes=frozenset({"*"}))


def key(**limits: object) -> Principal:
    return Principal(**{"actor": "key:1", "tenants": OneTenant("acme"), "scopes": frozenset({AGENTS_RUN}), **limits})  # type: ignore[arg-type]


def test_every_scope_is_explained() -> None:
    assert len(SCOPES) == 10
    assert all(":" in scope and meaning.endswith(".") for scope, meaning in SCOPES.items())


def test_unknown_scopes_are_listed_in_order() -> None:
    assert unknown_scopes(["x", "*", AGENTS_RUN, "agents:*"]) == ["x", "agents:*"]


def test_a_missing_scope_is_named() -> None:
    check_scope(PLATFORM, TRACES_READ)
    check_scope(key(), AGENTS_RUN)
    with pytest.raises(PermissionDenied) as refused:
        check_scope(key(), TRACES_READ)
    assert refused.value.details == {"permission": TRACES_READ}


@pytest.mark.parametrize(
    ("patterns", "name", "covered"),
    [
        ({"search"}, "search", True),
        ({"search"}, "search2", False),
        ({"search"}, "Search", False),
        ({"*"}, "anything:at:all", True),
        ({"crm:*"}, "crm:delete", True),
        ({"crm:*"}, "crm:contacts:delete", True),
        ({"crm:contacts:*"}, "crm:contacts:delete", True),
        ({"crm:contacts:*"}, "crm:delete", False),
        ({"crm:*"}, "crm", False),
        ({"crm:*"}, "crm2:delete", False),
        ({"cr*"}, "crm", False),
        ({"*:delete"}, "crm:delete", False),
        (set(), "search", False),
        (["a", "crm:*"], "crm:x", True),
    ],
)
def test_grants(patterns: set[str], name: str, covered: bool) -> None:
    assert match_grant(patterns, name) is covered


@pytest.mark.parametrize(
    ("allowed", "denied", "tool", "permitted"),
    [
        ({"*"}, set(), "crm:delete", True),
        ({"*"}, {"crm:delete"}, "crm:delete", False),
        ({"crm:delete"}, {"crm:*"}, "crm:delete", False),
        ({"crm:*"}, {"crm:delete"}, "crm:read", True),
        ({"*"}, {"*"}, "search", False),
        (set(), set(), "search", False),
    ],
)
def test_a_denied_tool_beats_every_grant(allowed: set[str], denied: set[str], tool: str, permitted: bool) -> None:
    caller = key(allowed_tools=frozenset(allowed), denied_tools=frozenset(denied))
    assert tool_permitted(caller, tool) is permitted


@pytest.mark.parametrize(
    ("allowed", "ref", "permitted"),
    [
        (None, "openai/gpt-4o", True),
        ({"openai/gpt-4o"}, "openai/gpt-4o", True),
        ({"gpt-4o"}, "openai/gpt-4o", True),
        ({"gpt-4o"}, "gpt-4o", True),
        ({"openai/*"}, "openai/gpt-4o", True),
        ({"openai/*"}, "groq/gpt-4o", False),
        ({"openai/*"}, "openai2/gpt-4o", False),
        ({"*"}, "groq/llama", True),
        ({"openrouter/*"}, "openrouter/openai/gpt-4o", True),
        ({"openai/gpt-4o"}, "openrouter/openai/gpt-4o", False),
        ({"gpt-4o"}, "openai/gpt-4o-mini", False),
        (set(), "openai/gpt-4o", False),
    ],
)
def test_models(allowed: set[str] | None, ref: str, permitted: bool) -> None:
    caller = key(allowed_models=None if allowed is None else frozenset(allowed))
    assert model_permitted(caller, ref) is permitted


@pytest.mark.parametrize(
    ("caller", "requested", "tenant"),
    [
        (PLATFORM, None, ALL_TENANTS),
        (PLATFORM, "", ALL_TENANTS),
        (PLATFORM, "globex", OneTenant("globex")),
        (key(), None, OneTenant("acme")),
        (key(), "", OneTenant("acme")),
        (key(), "acme", OneTenant("acme")),
    ],
)
def test_tenants(caller: Principal, requested: str | None, tenant: TenantScope) -> None:
    assert resolve_tenant(caller, requested) == tenant


def test_the_tenant_of_a_run() -> None:
    assert run_tenant(PLATFORM, "", default="ada") == "ada"
    assert run_tenant(PLATFORM, "globex", default="ada") == "globex"
    assert run_tenant(key(), None, default="ada") == "acme"
    with pytest.raises(PermissionDenied):
        run_tenant(key(), "globex", default="ada")


def test_a_foreign_tenant_is_refused() -> None:
    with pytest.raises(PermissionDenied) as refused:
        resolve_tenant(key(), "globex")
    assert refused.value.status == 403
