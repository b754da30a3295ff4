"""The guard of every REST endpoint: the credential becomes a Principal, and the view's declared scope is required.

A view says `required_scopes = {"GET": "traces:read", ...}` (or one scope for all its methods), or `public = True`.
A view that says nothing is closed to everybody.
"""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from apps.identity.domain.permissions import TENANT, resolve_tenant
from apps.identity.services.authentication import (
    BEARER_HEADER,
    DAEMON_HEADER,
    authenticate,
    authenticate_optional,
    check_rate,
    record_denial,
)
from clasper.core.auth import Principal
from clasper.core.clock import utc_now
from clasper.core.db import atomic_batch
from clasper.core.errors import PermissionDenied, Unauthenticated
from clasper.core.schemas import AnyTenantId, Input, OneTenantId, Query
from clasper.core.tenancy import AllTenants, OneTenant, TenantScope
from clasper.core.validation import read

I = TypeVar("I", bound=Input)  # noqa: E741 - the input
Q = TypeVar("Q", bound=Query)

UNDECLARED = "undeclared"
"""What a refusal names when the view declares no scope for the method: our bug, so the route is closed."""

_META_NAMES = {DAEMON_HEADER: "HTTP_X_AGENT_DAEMON_KEY", BEARER_HEADER: "HTTP_AUTHORIZATION"}


class TenantQuery(Query, frozen=True, kw_only=True):
    """Whose data."""

    tenant_id: AnyTenantId = None


class OneTenantQuery(Query, frozen=True, kw_only=True):
    """Whose data, where the platform must name a tenant."""

    tenant_id: OneTenantId


class CredentialAuthentication(BaseAuthentication):
    """Puts the Principal into `request.auth`; `request.user` stays None.

    Raises InvalidDaemonKey, Unauthenticated or RateLimited. On a public view wrong or missing credentials only mean
    that `request.auth` is None.
    """

    def authenticate(self, request: Request) -> tuple[None, Principal] | None:
        headers = {name: request.META[meta] for name, meta in _META_NAMES.items() if meta in request.META}
        if _is_public(request.parser_context.get("view")):
            caller = authenticate_optional(headers, now=utc_now())
            return None if caller is None else (None, caller)
        principal = authenticate(headers, now=utc_now())
        check_rate(principal)
        return None, principal

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class ScopePermission(BasePermission):
    """Requires the scope that the view declares for the method; a refusal is audited as `permission.denied`."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if _is_public(view) or not _takes(view, request.method or ""):
            return True
        principal = principal_of(request)
        scope = _declared_scope(view, request.method or "")
        if scope is None:
            _refuse(request, principal, UNDECLARED, "This route is not open to any credential.")
        if not principal.has(scope):
            _refuse(request, principal, scope, f"The credential lacks the scope {scope}.")
        return True


def principal_of(request: Request) -> Principal:
    """The caller of a guarded view. Raises Unauthenticated on a public view that was called without credentials."""
    if isinstance(request.auth, Principal):
        return request.auth
    raise Unauthenticated()


def tenant_of(request: Request, requested: str | None) -> TenantScope:
    """Whose data a request is about, by `resolve_tenant`. A foreign tenant is audited and 403."""
    principal = principal_of(request)
    try:
        return resolve_tenant(principal, requested)
    except PermissionDenied as error:
        _refuse(request, principal, TENANT, error.message)


def read_query(kind: type[Q], request: Request) -> tuple[TenantScope, Q]:
    """Whose data the caller asks about, and the query. Raises PermissionDenied before InvalidRequest."""
    given = request.query_params.dict()
    if kind.ignore_blank:
        given = {name: value for name, value in given.items() if value}
    return _read(kind, request, given, strict=False)


def read_body(kind: type[I], request: Request) -> tuple[TenantScope, I]:
    """Whose data the body is about, and the body. Raises PermissionDenied before InvalidRequest."""
    return _read(kind, request, request.data, strict=True)


def _read(kind: type[I], request: Request, given: Any, *, strict: bool) -> tuple[TenantScope, I]:
    """A tenant's credential that names no tenant means its own, also where the platform must name one."""
    takes_tenant = "tenant_id" in kind.__struct_fields__
    named = given.get("tenant_id") if takes_tenant else None
    tenants = tenant_of(request, str(named) if isinstance(named, str | int) else None)
    if takes_tenant and named is None and isinstance(tenants, OneTenant):
        given = {**given, "tenant_id": tenants.tenant_id}
    return tenants, read(kind, given, strict=strict)


def require_platform(request: Request) -> None:
    """Audits and refuses a tenant's credential, whatever its scopes. Raises PermissionDenied."""
    principal = principal_of(request)
    if not isinstance(principal.tenants, AllTenants):
        _refuse(request, principal, TENANT, "This is about all tenants, so only the platform may read it.")


def _refuse(request: Request, principal: Principal, permission: str, message: str) -> NoReturn:
    match = request.resolver_match
    route = f"{request.method} /{match.route if match else ''}"
    with atomic_batch() as batch:
        record_denial(batch, principal=principal, permission=permission, route=route, now=utc_now())
    raise PermissionDenied(message, details={"permission": permission})


def _is_public(view: Any) -> bool:
    return getattr(view, "public", False) is True


def _takes(view: Any, method: str) -> bool:
    """Whether the view has a handler for the method; if not, the answer is 405 to every valid credential."""
    return method.lower() in view.http_method_names and hasattr(view, method.lower())


def _declared_scope(view: Any, method: str) -> str | None:
    declared: str | dict[str, str] | None = getattr(view, "required_scopes", None)
    if isinstance(declared, str):
        return declared
    return (declared or {}).get("GET" if method == "HEAD" else method)


class CredentialScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # the base's hook is untyped
    """Both ways to authenticate, in the OpenAPI document: either one is enough."""

    target_class = CredentialAuthentication
    name = ["daemonKey", "tenantKey"]

    def get_security_requirement(self, auto_schema: Any) -> list[dict[str, list[Any]]]:
        if _is_public(auto_schema.view):
            return []
        return [{name: []} for name in self.name]

    def get_security_definition(self, auto_schema: Any) -> list[dict[str, Any]]:
        return [
            {
                "type": "apiKey",
                "in": "header",
                "name": "X-Agent-Daemon-Key",
                "description": "The platform's key (AGENT_DAEMON_API_KEY): may do everything, for every tenant. A "
                "server for development without this setting needs no key.",
            },
            {
                "type": "http",
                "scheme": "bearer",
                "description": "A tenant's API key, `clk_…`, made by `manage.py api_key create`: acts for its tenant "
                "alone, within its scopes. With it the platform's key is not needed.",
            },
        ]
