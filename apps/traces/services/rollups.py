"""The day sums of runs: added to when a run settles, and computed again from the traces on request.

As long as a day's traces are all there, its sums can be computed from them; once retention has deleted some, they
cannot. The counts decide: when a day's sums count more runs than it has traces, its sums stay as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import ClassVar

from django.db.models import Max, Min
from django.db.models.functions import TruncDate

from apps.traces.models import Rollup, Trace
from clasper.core.db import Batch, atomic_batch, placeholders
from clasper.core.tenancy import AllTenants, TenantScope

DIMENSIONS = ("status", "model", "agent", "workspace", "environment", "risk")

_ADD = """INSERT INTO trace_rollups
 (tenant_id, day, dimension, value, runs, input_tokens, output_tokens, cost, duration_ms)
 VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
 ON CONFLICT (tenant_id, dimension, day, value) DO UPDATE SET runs = trace_rollups.runs + excluded.runs,
 input_tokens = trace_rollups.input_tokens + excluded.input_tokens,
 output_tokens = trace_rollups.output_tokens + excluded.output_tokens,
 cost = trace_rollups.cost + excluded.cost, duration_ms = trace_rollups.duration_ms + excluded.duration_ms"""

_SUMS = """SELECT status, provider, model, agent_id, workspace_id, environment, risk_level, COUNT(*),
 SUM(input_tokens + cached_tokens + cache_write_tokens), SUM(output_tokens), SUM(cost), SUM(duration_ms)
 FROM traces WHERE tenant_id = %s AND started_at >= %s AND started_at <= %s AND ended_at >= %s AND ended_at < %s
 GROUP BY status, provider, model, agent_id, workspace_id, environment, risk_level"""

_LATE = timedelta(days=1)
"""A run is written down within this time of its start, whatever the load."""


class RollupSums:
    """Sums of ended runs by tenant, day and dimension; those of a batch are written before its commit."""

    lock_order: ClassVar[int] = 40

    def __init__(self) -> None:
        self._sums: dict[tuple[str, date, str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0])

    def add(self, tenant_id: str, day: date, values: Sequence[str], amounts: Sequence[int]) -> None:
        """Adds runs that ended on `day`.

        `values` are theirs for DIMENSIONS; `amounts` are runs, input tokens, output tokens, cost in nano-USD and
        duration in milliseconds.
        """
        for dimension, value in zip(DIMENSIONS, values, strict=True):
            sums = self._sums[tenant_id, day, dimension, value]
            for i, amount in enumerate(amounts):
                sums[i] += amount

    def flush(self, batch: Batch) -> None:
        for key in sorted(self._sums):
            batch.queue(_ADD, (*key, *self._sums[key]))


def model_value(provider: str, model: str) -> str:
    """The value of the dimension `model`."""
    return f"{provider}/{model}"[:128]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild did: days computed again, the runs that they count, and days left as they are."""

    days: int = 0
    runs: int = 0
    kept: int = 0

    def __add__(self, other: Rebuilt) -> Rebuilt:
        return Rebuilt(self.days + other.days, self.runs + other.runs, self.kept + other.kept)


Progress = Callable[[str, date, int | None], None]
"""Called for each tenant and day with the number of runs that its sums now count, or None when they were kept."""


def rebuild(*, tenants: TenantScope, now: datetime, progress: Progress) -> dict[str, Rebuilt]:
    """Computes the day sums of the scope's tenants again from their traces; returns what was done, by tenant.

    Exact even while runs settle. A day whose sums count more runs than it has traces is kept, because retention has
    deleted some of them; so no count ever shrinks. Other writers wait for one day at a time.
    """
    if isinstance(tenants, AllTenants):
        found = list(Trace.objects.order_by("tenant_id").values_list("tenant_id", flat=True).distinct())
    else:
        found = [tenants.tenant_id]
    return {tenant_id: _rebuild_tenant(tenant_id, now, progress) for tenant_id in found}


def _rebuild_tenant(tenant_id: str, now: datetime, progress: Progress) -> Rebuilt:
    total = Rebuilt()
    for day, (earliest, latest) in sorted(_starts(tenant_id, now).items()):
        with atomic_batch() as batch:
            runs = _rebuild_day(batch, tenant_id, day, earliest, latest)
        progress(tenant_id, day, runs)
        total += Rebuilt(kept=1) if runs is None else Rebuilt(days=1, runs=runs)
    return total


def _rebuild_day(batch: Batch, tenant_id: str, day: date, earliest: datetime, latest: datetime) -> int | None:
    """Replaces one day's sums; returns the number of runs that they count, or None when they must be kept."""
    if batch.vendor == "postgresql":
        # Whoever settles a run now adds to the sums last, so it waits here and its trace is not yet seen below; whoever
        # has added already is waited for, and its trace is seen. SQLite's transaction is alone anyway.
        batch.execute("LOCK TABLE trace_rollups IN SHARE ROW EXCLUSIVE MODE")
    sums, runs = RollupSums(), 0
    begin = datetime.combine(day, time(), UTC)
    rows = batch.fetch_all(_SUMS, (tenant_id, earliest, latest, begin, begin + timedelta(days=1)))
    for status, provider, model, agent, workspace, environment, risk, *amounts in rows:
        values = (status, model_value(provider, model), agent, workspace, environment, risk)
        sums.add(tenant_id, day, values, [int(amount) for amount in amounts])
        runs += amounts[0]
    if runs < _counted(batch, tenant_id, day):
        return None
    batch.execute(
        f"DELETE FROM trace_rollups WHERE tenant_id = %s AND day = %s AND dimension IN ({placeholders(DIMENSIONS)})",
        (tenant_id, day, *DIMENSIONS),
    )
    sums.flush(batch)
    return runs


def _counted(batch: Batch, tenant_id: str, day: date) -> int:
    """The most runs that any dimension of the day counts."""
    rows = batch.fetch_all(
        "SELECT SUM(runs) FROM trace_rollups WHERE tenant_id = %s AND day = %s GROUP BY dimension", (tenant_id, day)
    )
    return max((int(row[0]) for row in rows), default=0)


def _starts(tenant_id: str, now: datetime) -> dict[date, tuple[datetime, datetime]]:
    """Each day with ended runs or sums, and between which instants its runs began, so that the index finds them.

    Runs that settle after this was read end today, or ended yesterday a moment ago: those two days reach back to the
    first run under way, and have no end.
    """
    traces = Trace.objects.for_tenant(tenant_id)
    # Read first: a run that settles between the two questions is then in one answer at least.
    under_way = traces.filter(status="running").aggregate(first=Min("started_at"))["first"] or now
    ended = traces.filter(ended_at__isnull=False).annotate(day=TruncDate("ended_at", tzinfo=UTC)).order_by()
    found = {
        row["day"]: (row["first"], row["last"])
        for row in ended.values("day").annotate(first=Min("started_at"), last=Max("started_at"))
    }
    for day in Rollup.objects.filter(tenant_id=tenant_id).values_list("day", flat=True).distinct():
        found.setdefault(day, (now, now))
    for day in {now.date(), now.date() - timedelta(days=1)} & found.keys():
        found[day] = (min(now - _LATE, under_way, found[day][0]), datetime.max.replace(tzinfo=UTC))
    return found
