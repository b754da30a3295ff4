"""GET /traces/stats: sums over ended runs, and the same sums for groups of them."""

from __future__ import annotations

from typing import Annotated

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.identity.api import read_query
from apps.identity.domain.permissions import TRACES_READ
from apps.traces.api.inputs import DaysQuery
from apps.traces.domain.views import StatsAnswer
from apps.traces.services.stats import DAY, DIMENSIONS, Grouping, trace_stats
from clasper.core.http import operation
from clasper.core.schemas import Codec, about


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


class TraceStatsView(APIView):
    """`GET /traces/stats`"""

    required_scopes = {"GET": TRACES_READ}

    @operation("traces_stats", query=StatsInput, response=StatsAnswer)
    def get(self, request: Request) -> Response:
        """Sums over ended runs, by whole UTC days; with `group_by` also by group, the most expensive first."""
        tenants, query = read_query(StatsInput, request)
        days = {"start": query.start_date, "end": query.end_date}
        return Response(trace_stats(tenants=tenants, group_by=query.group_by, **days))
