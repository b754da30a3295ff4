"""Sums over runs that have ended, from the day sums: what they cost to read grows with days, not with runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

from msgspec.structs import replace

from apps.traces import queries
from apps.traces.domain.views import GroupSums, StatsAnswer
from clasper.core.money import NanoUSD
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


Grouping = tuple[bool, str]
"""Whether by day, and a key of DIMENSIONS or ""; at least one of the two."""


def trace_stats(
    *,
    tenants: TenantScope,
    start: datetime | None = None,
    end: datetime | None = None,
    group_by: Grouping | None = None,
) -> StatsAnswer:
    """Sums over the runs that ended on the days from `start` to `end`, both whole UTC days; with `group_by` for groups
    of them, too.

    The most expensive groups come first; days in their order. Beyond MOST_GROUPS, the oldest days or the cheapest
    groups are left out.
    """
    # The status is the dimension in which every run is counted exactly once.
    rows = queries.day_sums(tenants=tenants, dimension="status", by=("value",), start=start, end=end)
    by_status = {"success": 0, "error": 0, "timeout": 0, **{row["value"]: row["runs_sum"] for row in rows}}
    runs = sum(by_status.values())
    stats = StatsAnswer(
        **_sums(rows), traces_by_status=by_status, error_rate=(runs - by_status["success"]) / runs if runs else 0
    )
    if group_by is None:
        return stats
    by_day, dimension = group_by
    by = (*((DAY,) if by_day else ()), *(("value",) if dimension else ()))
    name = DIMENSIONS[dimension or "status"]
    rows = queries.day_sums(tenants=tenants, dimension=name, by=by, start=start, end=end, most=MOST_GROUPS + 1)
    groups = [GroupSums(**_key(row, dimension), **_sums([row])) for row in rows[:MOST_GROUPS]]
    if by_day:
        groups.sort(key=lambda group: str(group.day))
    return replace(stats, groups=tuple(groups), groups_are_complete=len(rows) <= MOST_GROUPS)


def _key(row: Mapping[str, Any], dimension: str) -> dict[str, Any]:
    day: date | None = row.get(DAY)
    return {**({DAY: day.isoformat()} if day else {}), **({dimension: row["value"]} if dimension else {})}


def _sums(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = ("runs", "duration", "input", "output", "cost")
    runs, duration_ms, prompt_tokens, output_tokens, cost = (sum(row[f"{name}_sum"] for row in rows) for name in names)
    return {
        "total_traces": runs,
        "avg_duration_ms": round(duration_ms / runs) if runs else 0,
        "total_tokens": prompt_tokens + output_tokens,
        "total_cost": NanoUSD(cost),
    }
