"""Retention by the schedule, and when something goes wrong: a tenant that fails, a policy that was a mistake."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import pytest
from django.db import connection

from apps.schedule.services import run_if_due
from apps.traces.models import Trace
from apps.traces.services import enforcement
from apps.traces.services.enforcement import Enforcement, enforce, enforce_all
from apps.traces.services.retention import set_policy
from apps.traces.tasks import RetentionIncomplete, periodic_tasks
from tests.conftest import run
from tests.traces.retention_runs import NOW, Run
from tests.world import ACME, GLOBEX

HOUR = timedelta(hours=1)

pytestmark = pytest.mark.usefixtures("store")


def policy(tenant_id: str, days: int) -> None:
    set_policy(tenant_id=tenant_id, actor="user:test", now=NOW, values={"retention_days": days})


@contextmanager
def undeletable(tenant_id: str) -> Iterator[None]:
    """The database refuses to delete the tenant's traces."""
    when = f"BEFORE DELETE ON traces FOR EACH ROW WHEN (OLD.tenant_id = '{tenant_id}')"
    if connection.vendor == "sqlite":
        make = [f"CREATE TRIGGER keep_traces {when} BEGIN SELECT RAISE(ABORT, 'kept'); END"]
        undo = ["DROP TRIGGER keep_traces"]
    else:
        body = "$$ BEGIN RAISE EXCEPTION 'kept'; END $$"
        make = [
            f"CREATE FUNCTION keep_traces() RETURNS trigger LANGUAGE plpgsql AS {body}",
            f"CREATE TRIGGER keep_traces {when} EXECUTE FUNCTION keep_traces()",
        ]
        undo = ["DROP TRIGGER keep_traces ON traces", "DROP FUNCTION keep_traces()"]
    with connection.cursor() as cursor:
        for statement in make:
            cursor.execute(statement)
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            for statement in undo:
                cursor.execute(statement)


def left(tenant_id: str) -> int:
    return Trace.objects.filter(tenant_id=tenant_id).count()


def due(now: datetime) -> bool:
    """What a worker does that looks at this instant: whether it ran the task."""
    (task,) = periodic_tasks()
    return run(run_if_due(task, clock=lambda: now))


def test_policies_are_enforced_once_a_period() -> None:
    policy(ACME, 30)
    assert [due(NOW + hours * HOUR) for hours in (0, 1, 23.9, 24, 25)] == [True, False, False, True, False]


def test_a_tenant_that_fails_keeps_nobody_waiting_and_is_tried_again() -> None:
    for tenant_id in (ACME, GLOBEX):
        policy(tenant_id, 30)
        Run(days=45, tenant_id=tenant_id).write()
    with undeletable(ACME), pytest.raises(RetentionIncomplete):
        due(NOW)
    assert (left(ACME), left(GLOBEX)) == (1, 0)
    assert due(NOW + HOUR), "what could not be done is due again soon"
    assert left(ACME) == 0
    assert not due(NOW + 2 * HOUR)


def test_enforcement_that_was_stopped_is_not_complete() -> None:
    policy(ACME, 30)
    Run(days=45).write()
    (done,) = enforce_all(actor="user:test", now=NOW, stopped=iter((False, True)).__next__)
    assert (done.deleted, done.complete) == (0, False)
    assert left(ACME) == 1


def test_a_policy_that_was_a_mistake_is_mended_while_it_is_enforced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enforcement, "PAGE", 5)
    policy(ACME, 1)
    for _ in range(20):
        Run(days=45).write()

    def mend(done: Enforcement) -> None:
        policy(ACME, 3650)

    done = enforce(tenant_id=ACME, actor="user:test", now=NOW, progress=mend)
    assert (done.deleted, done.complete) == (5, True)
    assert left(ACME) == 15
