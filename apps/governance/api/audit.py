"""GET /audit and /audit/stats: reading the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, ClassVar

from msgspec import Meta
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.audit.services.reading import AuditPage, AuditStats, audit_stats, list_audit, read_cursor
from apps.identity.api import TenantQuery, read_query
from apps.identity.domain.permissions import GOVERNANCE_READ
from clasper.core.clock import utc_now
from clasper.core.http import operation
from clasper.core.schemas import Codec, Errors, Instant, LastInstant, about

END_BEFORE_START = "The end must not be before the start."
MAX_OFFSET = 2**53 - 1
"""What JSON and every database can carry exactly."""


class ChainQuery(TenantQuery, frozen=True, kw_only=True):
    """Whose part of the audit log; a parameter that is blank counts as left out."""

    ignore_blank: ClassVar[bool] = True


class RangeQuery(ChainQuery, frozen=True, kw_only=True):
    """The time range, both ends included."""

    start_time: Annotated[Instant | None, about("Not before this instant.")] = None
    end_time: Annotated[LastInstant | None, about("Not after this instant.")] = None
    start_date: Annotated[Instant | None, about("The same as start_time.")] = None
    end_date: Annotated[LastInstant | None, about("The same as end_time.")] = None

    @property
    def start(self) -> datetime | None:
        return self.start_time or self.start_date

    @property
    def end(self) -> datetime | None:
        return self.end_time or self.end_date

    @classmethod
    def cross_field_errors(cls, values: Mapping[str, Any], given: Mapping[str, Any]) -> Errors:
        start = values.get("start_time") or values.get("start_date")
        name = "end_time" if values.get("end_time") else "end_date"
        end = values.get(name)
        return {name: [END_BEFORE_START]} if start and end and end < start else {}


class AuditQuery(RangeQuery, frozen=True, kw_only=True):
    """Filters, and which page of what they leave."""

    event_type: Annotated[Annotated[str, Meta(max_length=64)] | None, about("For example tool.denied.")] = None
    trace_id: Annotated[Annotated[str, Meta(max_length=36)] | None, about("The run's trace.")] = None
    actor: Annotated[Annotated[str, Meta(max_length=256)] | None, about("Who did it, for example user:ada.")] = None
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100
    offset: Annotated[int, Meta(ge=0, le=MAX_OFFSET)] = 0
    cursor: Annotated[
        int | None, Codec(read=read_cursor), about("The next_cursor of the previous page, instead of offset.")
    ] = None

    @classmethod
    def cross_field_errors(cls, values: Mapping[str, Any], given: Mapping[str, Any]) -> Errors:
        errors = super().cross_field_errors(values, given)
        if "cursor" in given and values.get("offset"):
            errors["offset"] = ["Use either cursor or offset."]
        return errors


class AuditView(APIView):
    """The audit log, newest first."""

    required_scopes = {"GET": GOVERNANCE_READ}

    @operation("audit_list", query=AuditQuery, response=AuditPage)
    def get(self, request: Request) -> Response:
        """Query the audit log. Its entries form one hash chain per tenant."""
        tenants, query = read_query(AuditQuery, request)
        page = list_audit(
            tenants=tenants,
            event_type=query.event_type,
            trace_id=query.trace_id,
            actor=query.actor,
            start=query.start,
            end=query.end,
            limit=query.limit,
            offset=query.offset,
            before=query.cursor,
        )
        return Response(page)


class AuditStatsView(APIView):
    """The audit log's figures."""

    required_scopes = {"GET": GOVERNANCE_READ}

    @operation("audit_stats", query=ChainQuery, response=AuditStats)
    def get(self, request: Request) -> Response:
        """Count the audit log's entries, by event and in the last 24 hours."""
        tenants, _ = read_query(ChainQuery, request)
        return Response(audit_stats(tenants=tenants, now=utc_now()))
