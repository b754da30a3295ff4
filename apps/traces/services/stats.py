"""Sums over runs that have ended, from the day sums: what they cost to read grows with days, not with runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from apps.traces import queries
from apps.traces.domain.views import GroupedStats, Totals, TraceStats
from clasper.core.tenancy import TenantScope

DIMENSIONS: Mapping[str, str] = {
    "status": "status",
    "model": "model",
    "agent_id": "agent",
    "workspace_id": "workspace",
    "environment": "environment",
    "risk_level": "risk",
}
"""What runs can be grouped by, apart from the day: names in the API to dimensions of the day sums."""

DAY = "day"

MOST_GROUPS = 5_000
"""Bounds the groups: callers choose the names of agents, workspaces and environments."""


def trace_stats(*, tenants: TenantScope, start: datetime | None = None, end: datetime | None = None) -> TraceStats:
    """Sums over the runs that ended on the days from `start` to `end`, both whole UTC days.

    The status is the dimension in which every run is counted exactly once.
    """
    rows = queries.day_sums(tenants=tenants, dimension="status", by=("value",), start=start, end=end)
    by_status = {row["value"]: _totals(row) for row in rows}
    return TraceStats(
        whole=sum(by_status.values(), Totals()),
        by_status={status: sums.runs for status, sums in by_status.items()},
    )


def grouped_stats(
    *,
    tenants: TenantScope,
    dimension: str = "",
    by_day: bool = False,
    start: datetime | None = None,
    end: datetime | None = None,
) -> GroupedStats:
    """The same sums by a key of DIMENSIONS, by day, or by both.

    The most expensive groups first; days in their order. Beyond MOST_GROUPS, the oldest days or the cheapest groups are
    left out.
    """
    by = (*((DAY,) if by_day else ()), *(("value",) if dimension else ()))
    name = DIMENSIONS[dimension or "status"]
    rows = queries.day_sums(tenants=tenants, dimension=name, by=by, start=start, end=end, most=MOST_GROUPS + 1)
    groups = [(_key(row, dimension), _totals(row)) for row in rows[:MOST_GROUPS]]
    if by_day:
        groups.sort(key=lambda group: group[0][DAY])
    return GroupedStats(groups=tuple(groups), complete=len(rows) <= MOST_GROUPS)


def _key(row: Mapping[str, Any], dimension: str) -> dict[str, str]:
    day: date | None = row.get(DAY)
    return {**({DAY: day.isoformat()} if day else {}), **({dimension: row["value"]} if dimension else {})}


def _totals(row: Mapping[str, Any]) -> Totals:
    return Totals(
        runs=row["runs_sum"],
        duration_ms=row["duration_sum"],
        tokens=row["input_sum"] + row["output_sum"],
        cost=row["cost_sum"],
    )
