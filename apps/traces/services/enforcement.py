"""Enforcing retention: deleting and stripping old traces, oldest first, in transactions so short that runs go on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, NamedTuple, cast

import msgspec
from django.db import DatabaseError, connection
from django.db.models import Q

from apps.audit.services.recording import record_audit
from apps.traces.domain.retention import Policy, RetentionAction, cutoff, retention_action
from apps.traces.models import Trace
from apps.traces.services.retention import all_policies, policy_of, protected, strip
from clasper.core.clock import iso
from clasper.core.db import Batch, atomic_batch, placeholders, write_back
from clasper.core.schemas import INTERNAL, Count, Instant, Resource, TenantId, about

logger = logging.getLogger("clasper.retention")

ENFORCED = "retention.enforce"

PAGE = 500
"""Traces that are looked at together, and the most that one transaction removes."""

FIRST_BATCH = 20
LEAST_BATCH = 5
LONGEST_SECONDS = 0.006
"""What a transaction may take: SQLite has one writer, and on PostgreSQL everybody shares the disk."""

REST = 2.0
"""Pause after a transaction, as a multiple of its own time, so that runs get most of the database."""

_TABLES = ("trace_payloads", "trace_steps", "trace_labels", "trace_skills", "trace_annotations")


class Enforcement(Resource, frozen=False, kw_only=True):  # type: ignore[misc]  # its counts grow
    """What was done for a tenant, or with `dry_run` would be; while it is under way, what was done so far."""

    tenant_id: TenantId = msgspec.field(name="tenantId")
    cutoff: Annotated[Instant, about("Traces that began before this are too old.")] = msgspec.field(name="cutoffDate")
    dry_run: bool = msgspec.field(name="dryRun", default=False)
    deleted: Count = msgspec.field(name="tracesDeleted", default=0)
    stripped: Annotated[Count, about("Traces whose texts were removed.")] = msgspec.field(
        name="tracesStripped", default=0
    )
    protected: Annotated[Count, about("Traces left alone for a label or annotation.")] = msgspec.field(
        name="tracesProtected", default=0
    )
    oldest: Annotated[Instant | None, about("When it began; null without a trace.")] = msgspec.field(
        name="oldestRemainingTrace", default=None
    )
    duration_ms: Count = msgspec.field(name="durationMs", default=0)
    longest_transaction_ms: Annotated[float, about(example=1.5)] = msgspec.field(
        name="longestTransactionMs", default=0.0
    )
    complete: Annotated[bool, INTERNAL] = False


Progress = Callable[[Enforcement], None]


_Candidate = tuple[str, RetentionAction]
"""Id of a trace, and what the policy says to do with it."""


@dataclass(slots=True)
class _Pace:
    """Fits the size of transactions to the time they take, and rests between them."""

    size: int = FIRST_BATCH
    began: float = field(default_factory=time.perf_counter)
    longest: float = 0.0

    def spent(self, seconds: float) -> None:
        self.longest = max(self.longest, seconds)
        if seconds > LONGEST_SECONDS:
            self.size = max(LEAST_BATCH, self.size // 2)
        elif seconds < LONGEST_SECONDS / 2:
            self.size = min(PAGE, self.size * 5 // 4)
        time.sleep(seconds * REST)


def enforce(
    *,
    tenant_id: str,
    actor: str,
    now: datetime,
    dry_run: bool = False,
    progress: Progress | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Enforcement:
    """Applies the tenant's policy, or the default one, to its ended traces; with `dry_run` only counts.

    All rows of a trace go together; rollups, usage and the audit log keep their numbers. After every
    transaction `progress` is called; `stopped` is asked before it and ends the work early. Writes one
    `retention.enforce` entry with the counts, even if the work was cut short.
    """
    done = Enforcement(tenant_id=tenant_id, cutoff=cutoff(policy_of(tenant_id=tenant_id), now), dry_run=dry_run)
    _enforce(done, actor, now, progress, stopped)
    return done


def enforce_all(
    *,
    actor: str,
    now: datetime,
    dry_run: bool = False,
    progress: Progress | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Enforcement]:
    """Applies every policy there is, tenant by tenant.

    If the work for a tenant fails, that is logged, the others go on, and its result is not complete.
    """
    done = []
    for owned in all_policies():
        if stopped():
            break
        found = Enforcement(tenant_id=owned.tenant_id, cutoff=cutoff(owned, now), dry_run=dry_run)
        try:
            _enforce(found, actor, now, progress, stopped)
        except DatabaseError:
            logger.exception("retention was cut short", extra={"tenant_id": owned.tenant_id})
        done.append(found)
    return done


def _enforce(
    done: Enforcement, actor: str, now: datetime, progress: Progress | None, stopped: Callable[[], bool]
) -> None:
    pace = _Pace()
    try:
        done.complete = _work(done, pace, now, progress, stopped)
    finally:
        done.oldest = _oldest(done.tenant_id)
        done.duration_ms = round((time.perf_counter() - pace.began) * 1000)
        done.longest_transaction_ms = round(pace.longest * 1000, 1)
        if not done.dry_run:
            _record(done, actor, now)


def _work(
    done: Enforcement, pace: _Pace, now: datetime, progress: Progress | None, stopped: Callable[[], bool]
) -> bool:
    """Whether it reached the end. The policy is read again for each page, so that a mistake in it can be corrected."""
    policy = policy_of(tenant_id=done.tenant_id)
    for page in _pages(done.tenant_id, until=done.cutoff if policy.keeps_all else now):
        policy = policy_of(tenant_id=done.tenant_id)
        candidates = _candidates(page, policy, now)
        while candidates:
            if stopped():
                return False
            part, candidates = candidates[: pace.size], candidates[pace.size :]
            if done.dry_run:
                with _reading() as batch:
                    _count(done, _sort(batch, done.tenant_id, part))
            else:
                with atomic_batch() as batch:
                    began = time.perf_counter()  # SQLite has the lock only now
                    sorted_out = _sort(batch, done.tenant_id, part, lock=True)
                    if sorted_out.delete:
                        _delete(batch, done.tenant_id, sorted_out.delete)
                    if sorted_out.strip:
                        strip(batch, done.tenant_id, sorted_out.strip, policy.storage_mode)
                pace.spent(time.perf_counter() - began)
                write_back()
                _count(done, sorted_out)
            if progress is not None:
                progress(done)
    return True


_Row = tuple[str, str, datetime, str]
"""Id, status, start and storage mode of a trace."""


def _pages(tenant_id: str, *, until: datetime) -> Iterator[Sequence[_Row]]:
    """The tenant's ended traces that began before `until`, oldest first; each page begins where the last one ended."""
    traces = Trace.objects.for_tenant(tenant_id).filter(started_at__lt=until).exclude(status="running")
    rows = traces.order_by("started_at", "id").values_list("id", "status", "started_at", "storage_mode")
    page = list(rows[:PAGE])
    while page:
        yield page
        last_id, _, last_start, _ = page[-1]
        after = Q(started_at__gt=last_start) | Q(started_at=last_start, id__gt=last_id)
        # The first condition says nothing new, but both databases can begin their walk of the index with it.
        page = list(rows.filter(Q(started_at__gte=last_start) & after)[:PAGE]) if len(page) == PAGE else []


def _candidates(page: Sequence[_Row], policy: Policy, now: datetime) -> list[_Candidate]:
    found = (
        (id_, retention_action(policy, trace_id=id_, status=status, started_at=at, storage_mode=mode, now=now))
        for id_, status, at, mode in page
    )
    return [(trace_id, action) for trace_id, action in found if action != "keep"]


class _Sorted(NamedTuple):
    delete: list[str]
    strip: list[str]
    protected: int


def _sort(batch: Batch, tenant_id: str, candidates: Sequence[_Candidate], *, lock: bool = False) -> _Sorted:
    """Sorts the candidates that still exist into those to delete and those to strip, and counts the protected ones.

    Skips those that are being written to until the next enforcement, so that it never waits for a run.
    """
    ids = [trace_id for trace_id, _ in candidates]
    # By the id alone, which is the primary key: with the tenant, SQLite would walk an index of all the tenant's traces.
    sql = f"SELECT id FROM traces WHERE id IN ({placeholders(ids)})"
    if lock and batch.for_update:
        sql += f"{batch.for_update} SKIP LOCKED"
    there = {row[0] for row in batch.fetch_all(sql, ids)}
    kept = protected(batch, tenant_id, sorted(there)) if there else set()
    free = [(trace_id, action) for trace_id, action in candidates if trace_id in there - kept]
    return _Sorted(
        delete=[trace_id for trace_id, action in free if action == "delete"],
        strip=[trace_id for trace_id, action in free if action == "strip"],
        protected=len(kept),
    )


def _count(done: Enforcement, sorted_out: _Sorted) -> None:
    done.deleted += len(sorted_out.delete)
    done.stripped += len(sorted_out.strip)
    done.protected += sorted_out.protected


@contextmanager
def _reading() -> Iterator[Batch]:
    """A batch without a transaction: on SQLite a transaction would keep everybody else from writing."""
    with connection.cursor() as cursor:
        yield Batch(cursor, vendor=connection.vendor, native=False)


def _delete(batch: Batch, tenant_id: str, trace_ids: Sequence[str]) -> None:
    marks = placeholders(trace_ids)
    for table in _TABLES:
        batch.execute(f"DELETE FROM {table} WHERE tenant_id = %s AND trace_id IN ({marks})", (tenant_id, *trace_ids))
    batch.execute(f"DELETE FROM traces WHERE id IN ({marks})", trace_ids)


def _oldest(tenant_id: str) -> datetime | None:
    traces = Trace.objects.for_tenant(tenant_id).order_by("started_at", "id")
    return cast("datetime | None", traces.values_list("started_at", flat=True).first())


def _record(done: Enforcement, actor: str, now: datetime) -> None:
    details = {
        "deleted": done.deleted,
        "stripped": done.stripped,
        "protected": done.protected,
        "cutoff": iso(done.cutoff),
        "complete": done.complete,
    }
    with atomic_batch() as batch:
        record_audit(batch, tenant_id=done.tenant_id, event_type=ENFORCED, actor=actor, now=now, details=details)
