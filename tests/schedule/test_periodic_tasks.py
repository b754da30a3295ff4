"""Periodic tasks: one process runs an exclusive one, a dead process's lease is taken over, a failure harms no other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from apps.schedule import services
from apps.schedule.domain import PeriodicTask
from apps.schedule.models import ScheduleLease
from apps.schedule.services import LEASE, LONGEST_RETRY, Lease, run_if_due
from apps.traces.services.retention import set_policy
from clasper import worker
from clasper.core.clock import Clock
from clasper.core.db import writer
from tests.agents.processes import Installation, wait_until
from tests.conftest import NOW, run
from tests.world import ACME

MS = timedelta(milliseconds=1)
EVERY = timedelta(hours=24)

pytestmark = pytest.mark.usefixtures("store")


class Recorder:
    """A task that notes when it ran, and does then what the test wants."""

    def __init__(self, name: str = "task", *, every: timedelta = EVERY, error: Exception | None = None) -> None:
        self.ran: list[datetime] = []
        self.third = asyncio.Event()
        self.error = error
        self.task = PeriodicTask(name=name, every=every, run=self._run)

    async def _run(self, clock: Clock) -> None:
        self.ran.append(clock())
        if len(self.ran) == 3:
            self.third.set()
        if self.error:
            raise self.error

    def look(self, now: datetime) -> bool:
        return run(run_if_due(self.task, clock=lambda: now))


def row(name: str = "task") -> ScheduleLease:
    return ScheduleLease.objects.get(name=name)


# --- When it is due ---------------------------------------------------------------------------------------------------


def test_a_task_runs_at_once_and_then_a_period_after_its_start() -> None:
    recorder = Recorder()
    looks = [timedelta(0), MS, EVERY - MS, EVERY, EVERY + MS, 2 * EVERY - MS, 3 * EVERY]
    assert [recorder.look(NOW + after) for after in looks] == [True, False, False, True, False, False, True]
    assert recorder.ran == [NOW, NOW + EVERY, NOW + 3 * EVERY]
    lease = row()
    assert (lease.started_at, lease.finished_at, lease.due_at) == (NOW + 3 * EVERY,) * 2 + (NOW + 4 * EVERY,)
    assert lease.lease_until is None


def test_tasks_are_due_independently() -> None:
    one, other = Recorder("one"), Recorder("other")
    assert one.look(NOW)
    assert other.look(NOW + MS)
    assert not one.look(NOW + MS)


@pytest.mark.parametrize(("every", "check"), [(4.0, 1.0), (240.0, 60.0), (244.0, 60.0), (86400.0, 60.0)])
def test_an_exclusive_task_is_checked_four_times_a_period_and_at_least_once_a_minute(
    every: float, check: float
) -> None:
    recorder = Recorder(every=timedelta(seconds=every))
    assert recorder.task.check_interval.total_seconds() == check


def test_a_task_that_is_not_exclusive_always_runs_and_leaves_no_row() -> None:
    ran = []

    async def note(clock: Clock) -> None:
        ran.append(clock())

    task = PeriodicTask(name="shared", every=EVERY, run=note, exclusive=False)
    assert all(run(run_if_due(task, clock=lambda: NOW)) for _ in range(2))
    assert ran == [NOW, NOW]
    assert task.check_interval == EVERY
    assert not ScheduleLease.objects.exists()


# --- Two processes ----------------------------------------------------------------------------------------------------


async def test_while_a_process_runs_the_task_no_other_gets_it() -> None:
    going, end = asyncio.Event(), asyncio.Event()

    async def wait(_: Clock) -> None:
        going.set()
        await end.wait()

    task = PeriodicTask(name="task", every=MS, run=wait)
    first = asyncio.ensure_future(run_if_due(task, clock=lambda: NOW))
    await going.wait()
    assert not await run_if_due(task, clock=lambda: NOW + LEASE - MS)
    end.set()
    assert await first
    assert await run_if_due(task, clock=lambda: NOW + LEASE)


async def test_the_lease_of_a_dead_process_is_taken_over_when_it_ends() -> None:
    dead, heir = Lease("task", "dead"), Lease("task", "heir")
    assert await dead.claim(now=NOW)
    assert not await heir.claim(now=NOW + LEASE - MS)
    assert await heir.claim(now=NOW + LEASE)
    assert not await Lease("task", "third").claim(now=NOW + LEASE)


async def test_a_renewed_lease_lasts_longer() -> None:
    slow, heir = Lease("task", "slow"), Lease("task", "heir")
    assert await slow.claim(now=NOW)
    await slow.renew(now=NOW + LEASE - MS)
    assert not await heir.claim(now=NOW + LEASE)
    assert not await heir.claim(now=NOW + 2 * LEASE - 2 * MS)
    assert await heir.claim(now=NOW + 2 * LEASE - MS)


async def test_who_lost_the_lease_can_neither_renew_it_nor_give_it_back() -> None:
    slow, heir = Lease("task", "slow"), Lease("task", "heir")
    assert await slow.claim(now=NOW)
    assert await heir.claim(now=NOW + LEASE)
    await slow.renew(now=NOW + EVERY)
    await slow.finish(now=NOW + LEASE, due_at=NOW + EVERY)
    (found,) = await writer.submit(lambda batch: batch.fetch_all("SELECT holder, finished_at FROM schedule_leases"))
    assert found == ("heir", None)
    assert await Lease("task", "third").claim(now=NOW + 2 * LEASE), "what the loser said did not count"


def test_a_long_run_renews_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "RENEWAL_SECONDS", 0.01)
    now = NOW

    async def work(_: Clock) -> None:
        nonlocal now
        now = NOW + LEASE
        await asyncio.sleep(0.2)
        assert not await Lease("task", "other").claim(now=now)

    assert run(run_if_due(PeriodicTask(name="task", every=EVERY, run=work), clock=lambda: now))
    assert row().due_at == NOW + EVERY


@pytest.mark.slow
def test_of_three_workers_one_enforces_retention(tmp_path: Path, workspace: Path) -> None:
    set_policy(tenant_id=ACME, actor="user:test", now=NOW, values={"retention_days": 30})
    installation = Installation.create(tmp_path, workspace)
    try:
        for _ in range(3):
            installation.spawn("manage.py", "worker")
        finished = "SELECT COUNT(*) FROM schedule_leases WHERE name = 'retention' AND finished_at IS NOT NULL"
        wait_until(lambda: installation.number(finished), within=30, what="the enforcement")
        sweeps = "SELECT COUNT(DISTINCT holder) FROM schedule_leases WHERE name = 'sweep'"
        wait_until(lambda: installation.number(sweeps), within=10, what="a sweep")
        assert installation.number("SELECT COUNT(*) FROM audit_log WHERE event_type = 'retention.enforce'") == 1
    finally:
        installation.kill()


# --- Failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "retry"), [(EVERY, LONGEST_RETRY), (LONGEST_RETRY, LONGEST_RETRY), (LEASE, LEASE)])
def test_a_task_that_fails_is_due_again_within_the_hour(every: timedelta, retry: timedelta) -> None:
    recorder = Recorder(every=every, error=ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        recorder.look(NOW)
    assert row().lease_until is None
    recorder.error = None
    assert not recorder.look(NOW + retry - MS)
    assert recorder.look(NOW + retry)
    assert not recorder.look(NOW + retry + every - MS)
    assert recorder.look(NOW + retry + every)


async def test_a_task_that_is_stopped_is_due_at_once() -> None:
    going = asyncio.Event()

    async def hang(_: Clock) -> None:
        going.set()
        await asyncio.sleep(60)

    task = PeriodicTask(name="task", every=EVERY, run=hang)
    running = asyncio.ensure_future(run_if_due(task, clock=lambda: NOW))
    await going.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await Lease("task", "heir").claim(now=NOW)


def test_a_task_that_fails_stops_no_other_and_is_run_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad = Recorder("bad", every=timedelta(milliseconds=20), error=ValueError("broken"))
    good = Recorder("good", every=timedelta(milliseconds=20))
    monkeypatch.setattr(worker, "periodic_tasks", lambda: [bad.task, good.task])

    async def until_both_ran_thrice() -> None:
        working = asyncio.ensure_future(worker.work())
        async with asyncio.timeout(10):
            await asyncio.gather(bad.third.wait(), good.third.wait())
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    run(until_both_ran_thrice())
    assert "background work failed" in caplog.messages


# --- The registry -----------------------------------------------------------------------------------------------------


def test_one_list_names_every_task(settings: Any) -> None:
    tasks = {task.name: task for task in worker.periodic_tasks()}
    assert {name: task.exclusive for name, task in tasks.items()} == {
        "deliver_outbox": False,
        "sweep": True,
        "retention": True,
    }
    assert tasks["deliver_outbox"].every == timedelta(seconds=1)
    settings.CELERY_BROKER_URL = "redis://127.0.0.1:1/0"
    assert worker.periodic_tasks()[0].every == timedelta(seconds=5), "a broker wakes the workers in between"


def test_celery_follows_the_list() -> None:
    from clasper import celery

    celery.app.loader.init_worker()
    names = {f"clasper.{task.name}": task.check_interval.total_seconds() for task in worker.periodic_tasks()}
    assert {name: entry["schedule"] for name, entry in celery.app.conf.beat_schedule.items()} == names
    assert names.keys() <= celery.app.tasks.keys()


# --- Upgrades ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def before_the_leases() -> Iterator[None]:
    """The tables as they were when only retention had a schedule."""
    MigrationExecutor(connection).migrate([("traces", "0004_labels_by_time")])
    yield
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())


def test_when_retention_is_due_survives_the_upgrade_and_the_way_back(before_the_leases: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO retention_turns (id, due_at) VALUES (1, %s)", (NOW + EVERY,))
    executor = MigrationExecutor(connection)
    executor.migrate([("traces", "0005_schedule_moved")])
    assert "retention_turns" not in connection.introspection.table_names()
    assert not Recorder("retention").look(NOW + EVERY - MS)
    assert Recorder("retention").look(NOW + EVERY)
    MigrationExecutor(connection).migrate([("traces", "0004_labels_by_time")])
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM retention_turns WHERE due_at = %s", (NOW + 2 * EVERY,))
        assert cursor.fetchone()[0] == 1
