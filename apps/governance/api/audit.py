"""GET /audit and /audit/stats: reading the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.governance.api.auth import tenant_of
from apps.governance.domain.permissions import GOVERNANCE_READ
from apps.governance.services.audit import AuditRecord, audit_stats, list_audit
from clasper.core.clock import iso, parse_iso, utc_now

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000
MAX_OFFSET = 2**53 - 1
"""What JSON and every database can carry exactly."""


@extend_schema_field(OpenApiTypes.DATETIME)
class InstantField(serializers.Field[datetime, str, str, Any]):
    """An ISO 8601 instant, UTC unless it says so. A bare date means its first instant, or its last with `last`."""

    default_error_messages = {"invalid": "Write an ISO 8601 time such as 2026-02-01T19:30:00.000Z."}

    def __init__(self, *, last: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._last = last

    def to_internal_value(self, data: str) -> datetime:
        try:
            instant = parse_iso(data)
        except (ValueError, OverflowError):
            self.fail("invalid")
        if self._last and len(data) == len("2026-02-01"):
            return instant.replace(hour=23, minute=59, second=59, microsecond=999_999)
        return instant

    def to_representation(self, value: datetime) -> str:
        return iso(value)


class TenantQuery(serializers.Serializer[Any]):
    tenant_id = serializers.CharField(
        required=False, allow_blank=True, max_length=128, help_text="A tenant; without it the credential's, or all."
    )


class RangeQuery(TenantQuery):
    start_time = InstantField(required=False, help_text="Not before this instant.")
    end_time = InstantField(required=False, last=True, help_text="Not after this instant.")
    start_date = InstantField(required=False, help_text="The same as start_time.")
    end_date = InstantField(required=False, last=True, help_text="The same as end_time.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        attrs["start"] = attrs.get("start_time", attrs.get("start_date"))
        attrs["end"] = attrs.get("end_time", attrs.get("end_date"))
        faults = self.rule_faults(attrs)
        if attrs["start"] and attrs["end"] and attrs["end"] < attrs["start"]:
            faults["end_time"] = ["The end lies before the start."]
        if faults:
            raise serializers.ValidationError(faults)
        return attrs

    def rule_faults(self, attrs: dict[str, Any]) -> dict[str, list[str]]:
        """What else is wrong between the fields, by field."""
        return {}


class AuditQuery(RangeQuery):
    event_type = serializers.CharField(
        required=False, allow_blank=True, max_length=64, help_text="For example tool.denied."
    )
    trace_id = serializers.CharField(required=False, allow_blank=True, max_length=36, help_text="The run's trace.")
    actor = serializers.CharField(
        required=False, allow_blank=True, max_length=256, help_text="Who did it, for example user:ada."
    )
    limit = serializers.IntegerField(default=DEFAULT_LIMIT, min_value=1, max_value=MAX_LIMIT)
    offset = serializers.IntegerField(default=0, min_value=0, max_value=MAX_OFFSET)
    cursor = serializers.CharField(
        required=False,
        allow_blank=True,
        max_length=64,
        help_text="The next_cursor of the page before, instead of offset.",
    )

    def rule_faults(self, attrs: dict[str, Any]) -> dict[str, list[str]]:
        if attrs.get("cursor") and attrs["offset"]:
            return {"offset": ["Give either a cursor or an offset."]}
        return {}


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
        tenant_id, query = asked(AuditQuery, request)
        page = list_audit(
            tenant_id=tenant_id,
            event_type=query.get("event_type") or None,
            trace_id=query.get("trace_id") or None,
            actor=query.get("actor") or None,
            start=query["start"],
            end=query["end"],
            limit=query["limit"],
            offset=query["offset"],
            cursor=query.get("cursor") or None,
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
        tenant_id, _ = asked(TenantQuery, request)
        stats = audit_stats(tenant_id=tenant_id, now=utc_now())
        return Response(
            {
                "total_entries": stats.total_entries,
                "entries_by_type": stats.entries_by_type,
                "entries_last_24h": stats.entries_last_24h,
                "oldest_entry": iso(stats.oldest_entry) if stats.oldest_entry else None,
            }
        )


def asked(kind: type[TenantQuery], request: Request) -> tuple[str | None, dict[str, Any]]:
    """The tenant whom the caller may ask about, then the query. Raises PermissionDenied before ValidationError."""
    tenant_id = tenant_of(request, request.query_params.get("tenant_id"))
    query = kind(data=request.query_params)
    query.is_valid(raise_exception=True)
    return tenant_id, dict(query.validated_data)


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
