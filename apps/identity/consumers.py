"""The guard of the entry points on the event loop: the REST guard is `apps.identity.api`."""

from __future__ import annotations

from apps.identity.domain.permissions import check_scope
from apps.identity.services.authentication import authenticate_async, check_rate_async, record_denial
from clasper.core.auth import Principal
from clasper.core.clock import utc_now
from clasper.core.consumers import ApiConsumer, Request
from clasper.core.db import writer
from clasper.core.errors import PermissionDenied


class GuardedConsumer(ApiConsumer):
    """An entry point that authenticates its caller and requires `scopes`; a refusal is audited as `permission.denied`.

    `route` is how audit entries name the entry point, without the caller's values.
    """

    scopes: tuple[str, ...] = ()
    route: str = ""

    async def handle_request(self, request: Request) -> None:
        principal = await authenticate_async(request.headers, now=utc_now())
        try:
            self.require_scopes(principal)
            await check_rate_async(principal)
            await self.answer(principal, request)
        except PermissionDenied as error:
            await self._audit_denial(principal, error)
            raise

    def require_scopes(self, principal: Principal) -> None:
        """Raises PermissionDenied unless the principal holds every scope that this entry point requires."""
        for scope in self.scopes:
            check_scope(principal, scope)

    async def answer(self, principal: Principal, request: Request) -> None:
        """Answers an authenticated and authorised request."""
        raise NotImplementedError

    async def _audit_denial(self, principal: Principal, error: PermissionDenied) -> None:
        permission = str(error.details.get("permission", ""))
        route = f"{self.scope['method']} {self.route or self.scope['path']}"
        await writer.submit(
            lambda batch: record_denial(batch, principal=principal, permission=permission, route=route, now=utc_now()),
            key=principal.tenants.audit_chain,
        )
