"""GET /audit and /audit/stats: reading the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.audit.services.reading import AuditRecord, audit_stats, list_audit, read_cursor
from apps.identity.api import asked
from apps.identity.domain.permissions import GOVERNANCE_READ
from clasper.core.clock import iso, utc_now
from clasper.core.inputs import END_BEFORE_START, CursorField, Input, InstantField

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000
MAX_OFFSET = 2**53 - 1
"""What JSON and every database can carry exactly."""


class TenantQuery(Input):
    """What an audit query is about; a parameter that is blank counts as left out."""

    tenant_id = serializers.CharField(
        required=False, max_length=128, help_text="A tenant; without it the credential's, or all."
    )

    def to_internal_value(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return super().to_internal_value({name: value for name, value in data.items() if value != ""})


class RangeQuery(TenantQuery):
    start_time = InstantField(required=False, help_text="Not before this instant.")
    end_time = InstantField(required=False, last=True, help_text="Not after this instant.")
    start_date = InstantField(required=False, help_text="The same as start_time.")
    end_date = InstantField(required=False, last=True, help_text="The same as end_time.")

    def rule_faults(self, values: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, list[str]]:
        start, end = time_range(values)
        if start is None or end is None or end >= start:
            return {}
        return {"end_time" if "end_time" in values else "end_date": [END_BEFORE_START]}


class AuditQuery(RangeQuery):
    event_type = serializers.CharField(required=False, max_length=64, help_text="For example tool.denied.")
    trace_id = serializers.CharField(required=False, max_length=36, help_text="The run's trace.")
    actor = serializers.CharField(required=False, max_length=256, help_text="Who did it, for example user:ada.")
    limit = serializers.IntegerField(default=DEFAULT_LIMIT, min_value=1, max_value=MAX_LIMIT)
    offset = serializers.IntegerField(default=0, min_value=0, max_value=MAX_OFFSET)
    cursor = CursorField(
        read=read_cursor,
        required=False,
        help_text="The next_cursor of the page before, instead of offset.",
    )

    def rule_faults(self, values: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, list[str]]:
        faults = dict(super().rule_faults(values, given))
        if "cursor" in given and values.get("offset"):
            faults["offset"] = ["Give either a cursor or an offset."]
        return faults


class AuditEntryBody(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    timestamp = serializers.DateTimeField()
    event_type = serializers.CharField()
    tenant_id = serializers.CharField(help_text="Empty for the platform's own events.")
    trace_id = serializers.CharField(allow_null=True)
    actor = serializers.CharField(help_text="type:id")
    details = serializers.DictField()
    seq = serializers.IntegerField(help_text="The entry's place in its tenant's chain, from 1, without gaps.")
    prev_hash = serializers.CharField(help_text="The hash of the entry before; 64 zeros for the first.")
    hash = serializers.CharField(help_text="SHA-256 of the canonical JSON (RFC 8785) of all fields but id and hash.")


class AuditPageBody(serializers.Serializer[Any]):
    entries = AuditEntryBody(many=True)
    total = serializers.IntegerField()
    limit = serializers.IntegerField()
    offset = serializers.IntegerField()
    next_cursor = serializers.CharField(allow_null=True)
    total_is_exact = serializers.BooleanField(help_text="False when there are more than the 10000 that are counted.")


class AuditStatsBody(serializers.Serializer[Any]):
    total_entries = serializers.IntegerField()
    entries_by_type = serializers.DictField(child=serializers.IntegerField())
    entries_last_24h = serializers.IntegerField()
    oldest_entry = serializers.DateTimeField(allow_null=True)


class AuditView(APIView):
    """The audit log, newest first."""

    required_scopes = {"GET": GOVERNANCE_READ}

    @extend_schema(operation_id="audit_list", tags=["Governance"], parameters=[AuditQuery], responses=AuditPageBody)
    def get(self, request: Request) -> Response:
        """Query the audit log. Its entries form one hash chain for each tenant."""
        tenants, query = asked(AuditQuery, request)
        start, end = time_range(query)
        page = list_audit(
            tenants=tenants,
            event_type=query.get("event_type"),
            trace_id=query.get("trace_id"),
            actor=query.get("actor"),
            start=start,
            end=end,
            limit=query["limit"],
            offset=query["offset"],
            before=query.get("cursor"),
        )
        return Response(
            {
                "entries": [_entry_body(entry) for entry in page.entries],
                "total": page.total,
                "limit": page.limit,
                "offset": page.offset,
                "next_cursor": page.next_cursor,
                "total_is_exact": page.total_is_exact,
            }
        )


class AuditStatsView(APIView):
    """The audit log's figures."""

    required_scopes = {"GET": GOVERNANCE_READ}

    @extend_schema(operation_id="audit_stats", tags=["Governance"], parameters=[TenantQuery], responses=AuditStatsBody)
    def get(self, request: Request) -> Response:
        """Count the audit log's entries, by event and in the last 24 hours."""
        tenants, _ = asked(TenantQuery, request)
        stats = audit_stats(tenants=tenants, now=utc_now())
        return Response(
            {
                "total_entries": stats.total_entries,
                "entries_by_type": stats.entries_by_type,
                "entries_last_24h": stats.entries_last_24h,
                "oldest_entry": iso(stats.oldest_entry) if stats.oldest_entry else None,
            }
        )


def time_range(query: Mapping[str, Any]) -> tuple[datetime | None, datetime | None]:
    """Start and end of a RangeQuery, as far as they were given and could be read."""
    return query.get("start_time", query.get("start_date")), query.get("end_time", query.get("end_date"))


def _entry_body(entry: AuditRecord) -> dict[str, Any]:
    return {
        "id": entry.id,
        "timestamp": iso(entry.timestamp),
        "event_type": entry.event_type,
        "tenant_id": entry.tenant_id,
        "trace_id": entry.trace_id,
        "actor": entry.actor,
        "details": entry.details,
        "seq": entry.seq,
        "prev_hash": entry.prev_hash,
        "hash": entry.hash,
    }
