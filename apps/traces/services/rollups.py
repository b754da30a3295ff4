"""The day sums of runs, made anew from the traces, and added to by whoever writes many traces at once.

A run that settles adds itself to the sums of its day in the same transaction (`recording`). So as long as a day's
traces are all there, its sums can be computed from them; once retention has deleted some, they cannot. A day tells by
its count: when its sums count more runs than it has traces, runs were deleted, and its sums stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from django.db.models import Max, Min
from django.db.models.functions import TruncDate

from apps.traces.models import Rollup, Trace
from apps.traces.services.recording import ROLL_UP
from clasper.core.db import Batch, atomic_batch
from clasper.core.tenancy import AllTenants, TenantScope

DIMENSIONS = ("status", "model", "agent", "workspace", "environment", "risk")
Dimensions = tuple[str, str, str, str, str, str]
Amounts = Sequence[int]
"""Runs, input tokens, output tokens, cost in nano-USD, duration in milliseconds."""

_SUMS = """SELECT status, provider, model, agent_id, workspace_id, environment, risk_level, COUNT(*),
 SUM(input_tokens + cached_tokens + cache_write_tokens), SUM(output_tokens), SUM(cost), SUM(duration_ms)
 FROM traces WHERE tenant_id = %s AND started_at >= %s AND started_at <= %s AND ended_at >= %s AND ended_at < %s
 GROUP BY status, provider, model, agent_id, workspace_id, environment, risk_level"""

_LATE = timedelta(days=1)
"""A run is written down within this time of its start, whatever the load."""


class RunSums:
    """Sums by day and dimension in memory: as many as there are rollup rows, however many runs go in."""

    def __init__(self) -> None:
        self._by_run: dict[tuple[date, Dimensions], list[int]] = {}

    def add(self, day: date, dimensions: Dimensions, amounts: Amounts) -> None:
        """Adds runs that ended on `day` and are alike in every dimension."""
        sums = self._by_run.setdefault((day, dimensions), [0, 0, 0, 0, 0])
        for i, amount in enumerate(amounts):
            sums[i] += amount

    @property
    def runs(self) -> int:
        return sum(amounts[0] for amounts in self._by_run.values())

    def write(self, batch: Batch, tenant_id: str) -> None:
        """Queues them to be added to the tenant's rollups."""
        sums: dict[tuple[date, str, str], list[int]] = {}
        for (day, values), amounts in self._by_run.items():
            for dimension, value in zip(DIMENSIONS, values, strict=True):
                place = sums.setdefault((day, dimension, value), [0, 0, 0, 0, 0])
                for i, amount in enumerate(amounts):
                    place[i] += amount
        for (day, dimension, value), amounts in sorted(sums.items()):
            batch.queue(ROLL_UP, (tenant_id, day, dimension, value, *amounts))


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild did: days made anew with the runs they count, and days left as they are."""

    days: int = 0
    runs: int = 0
    kept: int = 0

    def __add__(self, other: Rebuilt) -> Rebuilt:
        return Rebuilt(self.days + other.days, self.runs + other.runs, self.kept + other.kept)


Progress = Callable[[str, date, int | None], None]
"""Told of each tenant and day: how many runs its sums now count, or None when they were kept."""


def rebuild(*, tenants: TenantScope, now: datetime, progress: Progress) -> dict[str, Rebuilt]:
    """Computes the day sums of the scope's tenants again from their traces; returns what was done, by tenant.

    Exact also while runs settle. A day whose sums count more runs than it has traces is kept: retention has deleted
    some of them. So no count ever shrinks. Memory holds one day's sums; other writers wait for one day at a time.
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
    """Replaces one day's sums; gives the runs they count, or None when they must be kept."""
    if batch.vendor == "postgresql":
        # Whoever settles a run now adds to the sums last, so it waits here and its trace is not yet seen below; whoever
        # has added already is waited for, and its trace is seen. SQLite's transaction is alone anyway.
        batch.execute("LOCK TABLE trace_rollups IN SHARE ROW EXCLUSIVE MODE")
    sums = RunSums()
    begin = datetime.combine(day, time(), UTC)
    rows = batch.fetch_all(_SUMS, (tenant_id, earliest, latest, begin, begin + timedelta(days=1)))
    for status, provider, model, agent, workspace, environment, risk, *amounts in rows:
        values = (status, f"{provider}/{model}"[:128], agent, workspace, environment, risk)
        sums.add(day, values, [int(amount) for amount in amounts])
    if sums.runs < _counted(batch, tenant_id, day):
        return None
    marks = ", ".join(["%s"] * len(DIMENSIONS))
    batch.execute(
        f"DELETE FROM trace_rollups WHERE tenant_id = %s AND day = %s AND dimension IN ({marks})",
        (tenant_id, day, *DIMENSIONS),
    )
    sums.write(batch, tenant_id)
    return sums.runs


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
