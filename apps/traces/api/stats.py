"""GET /traces/stats: sums over ended runs, and the same sums for groups of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.identity.api import asked
from apps.identity.domain.permissions import TRACES_READ
from apps.traces.api.inputs import order_faults
from apps.traces.domain.views import Totals
from apps.traces.services.stats import DAY, DIMENSIONS, grouped_stats, trace_stats
from clasper.core.inputs import Input, InstantField
from clasper.core.money import usd

GROUPS = (DAY, *DIMENSIONS)


class GroupField(serializers.CharField):
    """`day`, one of the dimensions, or both separated by a comma; gives (by day, dimension or "")."""

    def to_internal_value(self, data: Any) -> Any:
        names = [name.strip() for name in super().to_internal_value(data).split(",")]
        dimensions = [name for name in names if name != DAY]
        if len(set(names)) < len(names) or len(dimensions) > 1 or not {*dimensions} <= DIMENSIONS.keys():
            raise serializers.ValidationError(
                f"Give {DAY}, one of {', '.join(DIMENSIONS)}, or {DAY} and one of them separated by a comma."
            )
        return DAY in names, "".join(dimensions)


class StatsInput(Input):
    """Tenant and days of the sums, and what the runs are grouped by."""

    tenant_id = serializers.CharField(required=False, max_length=128)
    start_date = InstantField(required=False, help_text="From this UTC day on. `start_time` is the same.")
    end_date = InstantField(required=False, last=True, help_text="Up to this UTC day. `end_time` is the same.")
    group_by = GroupField(required=False, max_length=64, help_text=f"`{DAY}`, one of {', '.join(DIMENSIONS)}, or both.")

    aliases = {"start_time": "start_date", "end_time": "end_date"}

    def rule_faults(self, values: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, list[str]]:
        return order_faults(values)


class TraceStatsView(APIView):
    """`GET /traces/stats`"""

    required_scopes = {"GET": TRACES_READ}

    @extend_schema(operation_id="traces_stats", parameters=[StatsInput], responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> Response:
        """Sums over ended runs, by whole UTC days; with `group_by` also for each group, the dearest first."""
        tenants, query = asked(StatsInput, request)
        days = {"start": query.get("start_date"), "end": query.get("end_date")}
        stats = trace_stats(tenants=tenants, **days)
        by_status = {"success": 0, "error": 0, "timeout": 0, **stats.by_status}
        ended_badly = stats.whole.runs - by_status["success"]
        body = {
            "total_traces": stats.whole.runs,
            "traces_by_status": by_status,
            **_averages(stats.whole),
            "error_rate": ended_badly / stats.whole.runs if stats.whole.runs else 0,
        }
        if "group_by" in query:
            by_day, dimension = query["group_by"]
            grouped = grouped_stats(tenants=tenants, dimension=dimension, by_day=by_day, **days)
            groups = [{**key, "total_traces": sums.runs, **_averages(sums)} for key, sums in grouped.groups]
            body |= {"groups": groups, "groups_are_complete": grouped.complete}
        return Response(body)


def _averages(sums: Totals) -> dict[str, Any]:
    return {
        "avg_duration_ms": round(sums.duration_ms / sums.runs) if sums.runs else 0,
        "total_tokens": sums.tokens,
        "total_cost": usd(sums.cost),
    }
