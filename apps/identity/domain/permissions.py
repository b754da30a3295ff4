"""Who may do what: the scopes, the grants of tools and models, and which tenant a caller acts for."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from clasper.core.auth import ALL, Principal
from clasper.core.errors import PermissionDenied
from clasper.core.tenancy import AllTenants, OneTenant, TenantScope

AGENTS_RUN = "agents:run"
TRACES_READ = "traces:read"
TRACES_WRITE = "traces:write"
SKILLS_READ = "skills:read"
SKILLS_PUBLISH = "skills:publish"
WORKSPACE_READ = "workspace:read"
WORKSPACE_WRITE = "workspace:write"
GOVERNANCE_READ = "governance:read"
GOVERNANCE_WRITE = "governance:write"
PROMPT_OVERRIDE = "prompt:override"

SCOPES: dict[str, str] = {
    AGENTS_RUN: "Run agents: send, stream, llm-task and compact.",
    TRACES_READ: "Read traces and their payloads.",
    TRACES_WRITE: "Label, annotate and replay traces.",
    SKILLS_READ: "Read the skill registry.",
    SKILLS_PUBLISH: "Publish, test and promote skills.",
    WORKSPACE_READ: "Read workspaces, versions, pins and environments.",
    WORKSPACE_WRITE: "Change workspaces: snapshot, pin, promote and roll back.",
    GOVERNANCE_READ: "Read budgets, usage, risk scores and the audit log.",
    GOVERNANCE_WRITE: "Change budgets and retention.",
    PROMPT_OVERRIDE: "Replace the workspace's prompt in a run.",
}
"""Every scope a credential may hold, with what it allows. `*` means all of them."""

TENANT = "tenant"
"""What a refusal names when the caller reached for another tenant."""


def unknown_scopes(scopes: Iterable[str]) -> list[str]:
    """Those of `scopes` that do not exist, in order."""
    return [scope for scope in scopes if scope != ALL and scope not in SCOPES]


def check_scope(principal: Principal, scope: str) -> None:
    """Raises PermissionDenied, naming the scope in `details.permission`, unless the principal holds it."""
    if not principal.has(scope):
        raise PermissionDenied(f"The credential lacks the scope {scope}.", details={"permission": scope})


def match_grant(patterns: Collection[str], name: str) -> bool:
    """Whether one of the patterns covers `name`: the name itself, a namespace `ns:*` (at any depth), or `*`."""
    if name in patterns or ALL in patterns:
        return True
    end = name.find(":")
    while end != -1:
        if f"{name[: end + 1]}{ALL}" in patterns:
            return True
        end = name.find(":", end + 1)
    return False


def tool_permitted(principal: Principal, tool_name: str) -> bool:
    """Whether the credential lets its runs call the tool. A denial beats every grant."""
    if match_grant(principal.denied_tools, tool_name):
        return False
    return match_grant(principal.allowed_tools, tool_name)


def model_permitted(principal: Principal, ref: str) -> bool:
    """Whether the credential lets its runs use the model `provider/model`.

    A grant names the model with its provider or without, or all of a provider's models as `provider/*`.
    """
    allowed = principal.allowed_models
    if allowed is None:
        return True
    provider, _, model = ref.partition("/")
    names_no_provider = "/" not in model and model in allowed
    return match_grant(allowed, ref) or names_no_provider or f"{provider}/{ALL}" in allowed


def resolve_tenant(principal: Principal, requested: str | None) -> TenantScope:
    """Whose data a request is about: the principal's own tenant's, or for the platform the requested one's, else all.

    An empty name counts as none. Raises PermissionDenied when a tenant's credential names another tenant.
    """
    own = principal.tenants
    if requested and not own.includes(requested):
        raise PermissionDenied("The credential belongs to another tenant.", details={"permission": TENANT})
    return OneTenant(requested) if requested else own


def run_tenant(principal: Principal, requested: str | None, *, default: str) -> str:
    """The tenant that a run belongs to; `default` when the platform names none. Raises as `resolve_tenant`."""
    scope = resolve_tenant(principal, requested)
    return default if isinstance(scope, AllTenants) else scope.tenant_id
