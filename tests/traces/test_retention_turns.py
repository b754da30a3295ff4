"""The schedule when something goes wrong: a tenant that fails, a process that dies, a policy that was a mistake."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import connection

from apps.traces.models import RetentionTurn, Trace
from apps.traces.services import enforcement
from apps.traces.services.enforcement import LEASE, Enforcement, enforce, enforce_due
from apps.traces.services.retention import set_policy
from tests.traces.retention_runs import NOW, Run
from tests.world import ACME, GLOBEX

DAY = timedelta(hours=24)

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


def test_a_tenant_that_fails_keeps_nobody_waiting_and_is_tried_again() -> None:
    for tenant_id in (ACME, GLOBEX):
        policy(tenant_id, 30)
        Run(days=45, tenant_id=tenant_id).write()
    with undeletable(ACME):
        done = enforce_due(now=NOW, every=DAY)
    assert done is not None
    assert [(each.tenant_id, each.deleted, each.complete) for each in done] == [(ACME, 0, False), (GLOBEX, 1, True)]
    assert (left(ACME), left(GLOBEX)) == (1, 0)
    again = enforce_due(now=NOW + timedelta(hours=1), every=DAY)
    assert again is not None, "what could not be done is due again at once"
    assert left(ACME) == 0
    assert enforce_due(now=NOW + timedelta(hours=2), every=DAY) is None


def test_the_turn_of_a_process_that_died_is_taken_over() -> None:
    policy(ACME, 30)
    Run(days=45).write()

    class Killed(BaseException):
        pass

    def die() -> bool:
        raise Killed

    with pytest.raises(Killed):
        enforce_due(now=NOW, every=DAY, stopped=die)
    assert enforce_due(now=NOW + LEASE / 2, every=DAY) is None, "somebody may still be at it"
    assert enforce_due(now=NOW + LEASE, every=DAY) is not None
    assert left(ACME) == 0


def test_a_long_turn_is_not_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enforcement, "RENEWED_SECONDS", 0.0)
    policy(ACME, 30)
    Run(days=45).write()
    due = []

    def look() -> bool:
        due.append(RetentionTurn.objects.get().due_at)
        return False

    enforce_due(now=NOW, every=DAY, stopped=look)
    assert due[0] == NOW + LEASE
    assert due[-1] > due[0], "every transaction renews it"
    assert RetentionTurn.objects.get().due_at == NOW + DAY


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
