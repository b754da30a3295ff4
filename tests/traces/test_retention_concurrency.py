"""Retention beside runs that write, and beside itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, transaction

from apps.traces.models import Trace
from apps.traces.services import enforcement
from tests.traces.retention_deeds import enforced, events, policy
from tests.traces.retention_runs import Run, left

pytestmark = pytest.mark.usefixtures("fresh")


# --- At the same time as runs -----------------------------------------------------------------------------------------


@pytest.mark.skipif("connection.vendor == 'sqlite'", reason="SQLite locks no rows")
def test_a_trace_that_somebody_writes_to_is_passed_over() -> None:
    busy, free = Run(days=91).write(), Run(days=92).write()
    locked, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=_hold, args=(busy, locked, done.wait))
    thread.start()
    assert locked.wait(5)
    try:
        assert enforced().deleted == 1
    finally:
        done.set()
        thread.join()
    assert left() == {busy}
    assert free not in left()
    assert enforced().deleted == 1


def _hold(trace_id: str, locked: threading.Event, wait: Callable[[float], object]) -> None:
    try:
        with transaction.atomic():
            Trace.objects.select_for_update().get(id=trace_id)
            locked.set()
            wait(5)
    finally:
        connection.close()


def test_two_enforcements_at_once_delete_each_trace_once() -> None:
    for _ in range(60):
        Run(days=91).write()
    counts: list[int] = []

    def work() -> None:
        try:
            counts.append(enforced().deleted)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(counts) == 3
    enforced()
    assert left() == set()
    assert sum(details["deleted"] for details in events("retention.enforce")) == 60


@pytest.mark.skipif("connection.vendor != 'sqlite'", reason="asks SQLite's planner")
def test_no_statement_walks_all_traces_of_a_tenant() -> None:
    Run(days=91).write()
    Run(days=1).write()
    policy(storage_mode="summary")
    asked: list[tuple[str, Any]] = []

    def listen(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "trace" in sql and not sql.startswith("INSERT"):
            asked.append((sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(listen):
        enforced()
    plans: dict[str, str] = {}
    with connection.cursor() as cursor:
        for sql, params in asked:
            cursor.execute(f"EXPLAIN QUERY PLAN {sql}", params)
            plans[sql] = "; ".join(row[3] for row in cursor.fetchall())
    assert len(plans) >= 10
    bounds = ("(id=?)", "trace_id=?", "traces_by_time")
    unbounded = {sql: plan for sql, plan in plans.items() if "SCAN trace" in plan or not any(b in plan for b in bounds)}
    assert unbounded == {}
    of_traces = [plan for sql, plan in plans.items() if " traces " in sql and "IN (" in sql]
    assert len(of_traces) == 3
    assert all("(id=?)" in plan for plan in of_traces)


def test_transactions_grow_while_they_are_quick_and_shrink_when_they_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enforcement, "REST", 0.0)
    pace = enforcement._Pace()
    for _ in range(50):
        pace.spent(0.001)
    assert pace.size == enforcement.PAGE
    sizes = []
    for _ in range(20):
        pace.spent(0.5)
        sizes.append(pace.size)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == enforcement.LEAST_BATCH
    assert pace.longest == 0.5
