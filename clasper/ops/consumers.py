"""Live events: `GET /ops/api/events`, server-sent events that a browser's EventSource resumes by itself."""

from __future__ import annotations

from time import monotonic
from typing import Annotated

import msgspec
from msgspec import Meta

from apps.identity.consumers import GuardedConsumer
from apps.identity.domain.permissions import GOVERNANCE_READ, resolve_tenant
from apps.identity.services.authentication import authenticate_async
from clasper.core.auth import Principal
from clasper.core.clock import utc_now
from clasper.core.consumers import Request
from clasper.core.errors import ClasperError, InvalidRequest
from clasper.core.http import error_body
from clasper.core.schemas import OneTenantId, Query, about
from clasper.core.sse import HEADERS, HEARTBEAT, HEARTBEAT_SECONDS, encode_event
from clasper.core.validation import read
from clasper.ops.live import Feed, hub

CHECK_SECONDS = 1.5
"""How often a listener's credential is looked at again: a revoked key stops within seconds here, too."""


class EventsQuery(Query, frozen=True, kw_only=True):
    """Whose events, and after which one."""

    tenant_id: OneTenantId
    last_event_id: Annotated[
        Annotated[int, Meta(ge=0, lt=10**18)] | None, about("As Last-Event-ID, which comes first.")
    ] = None


class EventsConsumer(GuardedConsumer):
    """The tenant's audit entries as they are committed; with `Last-Event-ID`, also those since."""

    methods = ("GET",)

    scopes = (GOVERNANCE_READ,)

    async def answer(self, principal: Principal, request: Request) -> None:
        tenants = resolve_tenant(principal, request.query.get("tenant_id"))
        last_seen = request.headers.get("last-event-id") or request.query.get("last_event_id")
        given = {"tenant_id": tenants.audit_chain, "last_event_id": last_seen}
        query = read(EventsQuery, {name: value for name, value in given.items() if value}, strict=False)
        seq = query.last_event_id
        async with hub().listen(query.tenant_id) as (feed, newest):
            if seq is not None and seq > newest:
                raise InvalidRequest(field_errors={"last_event_id": [f"The newest event is {newest}."]})
            await self._forward(feed, newest if seq is None else seq, request)
        await self.send_part(b"", more=False)

    async def _forward(self, feed: Feed, seq: int, request: Request) -> None:
        await self.start(200, HEADERS)
        # An id without data is no event, but what the client resumes after if it is cut off before the first one.
        await self.send_part(b"id: %d\n\n" % seq, more=True)
        checked = sent = monotonic()
        closing = hub().closing
        while not closing.is_set():
            page = await feed.after(seq, patience=CHECK_SECONDS)
            if monotonic() - checked >= CHECK_SECONDS:
                await self._check_again(request)
                checked = monotonic()
            if page:
                await self.send_part(b"".join(data for _, data in page), more=True)
                seq, sent = page[-1][0], monotonic()
            elif monotonic() - sent >= HEARTBEAT_SECONDS - CHECK_SECONDS:
                await self.send_part(HEARTBEAT, more=True)
                sent = monotonic()

    async def _check_again(self, request: Request) -> None:
        self.require_scopes(await authenticate_async(request.headers, now=utc_now()))

    async def on_stream_error(self, error: ClasperError) -> None:
        await self.send_part(encode_event("error", msgspec.to_builtins(error_body(error))), more=False)
