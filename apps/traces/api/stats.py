"""GET /traces/stats: sums over ended runs, and the same sums for groups of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import UNSET, UnsetType
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.identity.api import read_query
from apps.identity.domain.permissions import TRACES_READ
from apps.traces.api.inputs import DaysQuery
from apps.traces.domain.views import Totals
from apps.traces.services.stats import DAY, DIMENSIONS, grouped_stats, trace_stats
from clasper.core.http import operation
from clasper.core.money import NanoUSD
from clasper.core.schemas import Codec, Count, Money, Resource, about

Grouping = tuple[bool, str]
"""By day, and the dimension or ""."""


def _read_grouping(text: str) -> Grouping:
    names = [name.strip() for name in text.split(",")]
    dimensions = [name for name in names if name != DAY]
    if len(set(names)) < len(names) or len(dimensions) > 1 or not {*dimensions} <= DIMENSIONS.keys():
        one_of = ", ".join(DIMENSIONS)
        raise ValueError(f"Must be {DAY}, one of {one_of}, or {DAY} and one of them separated by a comma.")
    return DAY in names, "".join(dimensions)


class StatsInput(DaysQuery, frozen=True, kw_only=True):
    """Tenant and whole UTC days of the sums, and what the runs are grouped by."""

    group_by: Annotated[
        Grouping | None, Codec(read=_read_grouping), about(f"`{DAY}`, one of {', '.join(DIMENSIONS)}, or both.")
    ] = None


class Sums(Resource, frozen=True, kw_only=True):
    """What ended runs took."""

    total_traces: Count
    avg_duration_ms: Count
    total_tokens: Count
    total_cost: Money


class GroupSums(Sums, frozen=True, kw_only=True):
    """The sums of a group; the field that the runs were grouped by names it."""

    day: Annotated[str | UnsetType, about(example="2026-02-01")] = UNSET
    status: str | UnsetType = UNSET
    model: Annotated[str | UnsetType, about(example="gpt-4o")] = UNSET
    agent_id: str | UnsetType = UNSET
    workspace_id: str | UnsetType = UNSET
    environment: str | UnsetType = UNSET
    risk_level: str | UnsetType = UNSET


class StatsAnswer(Sums, frozen=True, kw_only=True):
    """The sums of all runs; with `group_by` also of each group."""

    traces_by_status: Annotated[Mapping[str, int], about(example={"success": 10, "error": 1, "timeout": 1})]
    error_rate: Annotated[float, about("The share that did not succeed.", example=0.1667)]
    groups: tuple[GroupSums, ...] | UnsetType = UNSET
    groups_are_complete: Annotated[bool | UnsetType, about("False when there are more groups than are returned.")] = (
        UNSET
    )


class TraceStatsView(APIView):
    """`GET /traces/stats`"""

    required_scopes = {"GET": TRACES_READ}

    @operation("traces_stats", query=StatsInput, response=StatsAnswer)
    def get(self, request: Request) -> Response:
        """Sums over ended runs, by whole UTC days; with `group_by` also for each group, the most expensive first."""
        tenants, query = read_query(StatsInput, request)
        days = {"start": query.start_date, "end": query.end_date}
        stats = trace_stats(tenants=tenants, **days)
        runs = stats.whole.runs
        by_status = {"success": 0, "error": 0, "timeout": 0, **stats.by_status}
        shown: dict[str, Any] = {
            **_sums(stats.whole),
            "traces_by_status": by_status,
            "error_rate": (runs - by_status["success"]) / runs if runs else 0,
        }
        if query.group_by is not None:
            by_day, dimension = query.group_by
            grouped = grouped_stats(tenants=tenants, dimension=dimension, by_day=by_day, **days)
            shown["groups"] = tuple(GroupSums(**{**key, **_sums(sums)}) for key, sums in grouped.groups)
            shown["groups_are_complete"] = grouped.complete
        return Response(StatsAnswer(**shown))


def _sums(sums: Totals) -> dict[str, Any]:
    return {
        "total_traces": sums.runs,
        "avg_duration_ms": round(sums.duration_ms / sums.runs) if sums.runs else 0,
        "total_tokens": sums.tokens,
        "total_cost": NanoUSD(sums.cost),
    }
