"""Retention on the real database: what settling stores, what enforcement removes, and what nobody may remove."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from apps.governance.services.audit import list_audit, verify_chain
from apps.traces.domain.record import Status
from apps.traces.domain.retention import PROTECTING_KEYS, STORAGE_MODES, STRATEGIES
from apps.traces.models import Rollup, Trace
from apps.traces.services import enforcement
from apps.traces.services.enforcement import Enforcement, enforce, enforce_all, enforce_due
from apps.traces.services.retention import all_policies, demanding, get_policy, retention_stats, set_policy
from clasper.core.errors import InvalidRequest, NotFound
from tests.conftest import empty_database
from tests.traces.retention_runs import NOW, Run, ids_where, left, rows_of, texts
from tests.world import ACME, GLOBEX

pytestmark = pytest.mark.usefixtures("fresh")

ALL = {"input", "output", "step 1", "step 2"}
DAY = timedelta(days=1)


@pytest.fixture
def fresh(store: None) -> Iterator[None]:
    """The store, with no policy remembered from the test before, nor for the one after."""
    demanding.forget()
    yield
    demanding.forget()


def policy(tenant_id: str = ACME, **values: Any) -> None:
    set_policy(tenant_id=tenant_id, actor="user:test", now=NOW, values=values)


def enforced(tenant_id: str = ACME, **options: Any) -> Enforcement:
    return enforce(tenant_id=tenant_id, actor="user:test", now=NOW, **options)


def events(event_type: str, tenant_id: str = ACME) -> list[dict[str, Any]]:
    entries = list_audit(tenant_id=tenant_id, event_type=event_type).entries
    return [each.details for each in reversed(entries)]


# --- Policies ---------------------------------------------------------------------------------------------------------


def test_a_new_policy_takes_defaults_and_a_change_keeps_the_rest() -> None:
    policy(retention_days=30)
    policy(sampling_strategy="sampled", sample_rate=0.5)
    found = get_policy(tenant_id=ACME).policy
    assert (found.retention_days, found.sampling_strategy) == (30, "sampled")
    assert (found.sample_rate, found.storage_mode) == (0.5, "full")


def test_a_change_is_dated_and_audited_with_before_and_after() -> None:
    policy(retention_days=30)
    set_policy(tenant_id=ACME, actor="user:test", now=NOW + DAY, values={"storage_mode": "minimal"})
    found = get_policy(tenant_id=ACME)
    assert (found.created_at, found.updated_at) == (NOW, NOW + DAY)
    first, second = events("retention.policy")
    assert first["before"] is None
    assert second["before"] == first["after"]
    assert second["after"] == {**first["after"], "storage_mode": "minimal"}


def test_a_faulty_change_changes_nothing() -> None:
    policy(retention_days=30)
    with pytest.raises(InvalidRequest) as refused:
        policy(retention_days=0, storage_mode="none")
    assert refused.value.details["fieldErrors"].keys() == {"retention_days", "storage_mode"}
    assert get_policy(tenant_id=ACME).policy.retention_days == 30
    assert len(events("retention.policy")) == 1


def test_a_policy_needs_a_tenant() -> None:
    with pytest.raises(InvalidRequest):
        policy("")


def test_without_a_policy_there_is_none_to_read() -> None:
    policy(GLOBEX)
    with pytest.raises(NotFound):
        get_policy(tenant_id=ACME)


def test_figures_count_by_strategy() -> None:
    none = retention_stats(tenant_id=None)
    assert (none.policies, none.average_days) == (0, 0)
    policy(retention_days=30)
    policy(GLOBEX, retention_days=61, sampling_strategy="sampled")
    every, own = retention_stats(tenant_id=None), retention_stats(tenant_id=GLOBEX)
    assert (every.policies, every.average_days) == (2, 46)
    assert every.by_strategy == {"full": 1, "errors_only": 0, "sampled": 1}
    assert (own.policies, own.average_days, own.by_strategy["full"]) == (1, 61, 0)


# --- What settling stores ---------------------------------------------------------------------------------------------

SETTLED: dict[str, tuple[dict[str, Any], Status, set[str], str]] = {
    "no policy": ({}, "success", ALL, "full"),
    "everything": ({"retention_days": 30}, "success", ALL, "full"),
    "summary": ({"storage_mode": "summary"}, "success", {"input", "output"}, "summary"),
    "summary of an error": ({"storage_mode": "summary"}, "error", {"input", "error"}, "summary"),
    "minimal": ({"storage_mode": "minimal"}, "success", set(), "minimal"),
    "minimal error": ({"storage_mode": "minimal"}, "error", set(), "minimal"),
    "errors only": ({"sampling_strategy": "errors_only"}, "success", set(), "minimal"),
    "errors only, error": (
        {"sampling_strategy": "errors_only"},
        "error",
        {"input", "error", "step 1", "step 2"},
        "full",
    ),
    "sample of all": ({"sampling_strategy": "sampled", "sample_rate": 1}, "success", ALL, "full"),
    "sample of none": ({"sampling_strategy": "sampled", "sample_rate": 0}, "success", set(), "minimal"),
    "sample of all, summary": (
        {"sampling_strategy": "sampled", "sample_rate": 1, "storage_mode": "summary"},
        "success",
        {"input", "output"},
        "summary",
    ),
}


@pytest.mark.parametrize("name", SETTLED)
def test_what_is_stored_of_a_run(name: str) -> None:
    values, status, stored, mode = SETTLED[name]
    if values:
        policy(**values)
    trace_id = Run(status=status).write()
    assert texts(trace_id) == stored
    trace = Trace.objects.get(id=trace_id)
    assert (trace.storage_mode, trace.status, trace.input_tokens) == (mode, status, 100)
    assert trace.error_code == ("provider_error" if status == "error" else "")
    assert rows_of(trace_id)["TraceStep"] == 2, "facts stay"


def test_the_sample_decides_run_by_run() -> None:
    policy(sampling_strategy="sampled", sample_rate=0.1)
    kept, dropped = next(ids_where(sampled=True)), next(ids_where(sampled=False))
    Run(id=kept).write()
    Run(id=dropped).write()
    assert (texts(kept), texts(dropped)) == (ALL, set())


@pytest.mark.parametrize("key", PROTECTING_KEYS)
def test_a_run_that_is_labelled_from_the_start_is_stored_whole(key: str) -> None:
    policy(storage_mode="minimal")
    assert texts(Run(labels={key: "yes"}).write()) == ALL


def test_a_policy_holds_for_its_tenant_only() -> None:
    policy(storage_mode="minimal")
    assert texts(Run(tenant_id=GLOBEX).write()) == ALL


def test_a_policy_that_another_process_set_holds_after_seconds() -> None:
    Run().write()
    policy()
    Run().write()  # now remembered
    with connection.cursor() as cursor:
        cursor.execute("UPDATE retention_policies SET storage_mode = 'minimal'")
    assert texts(Run().write()) == ALL
    assert texts(Run(days=-4.9 / 86_400).write()) == ALL
    assert texts(Run(days=-5.1 / 86_400).write()) == set()


# --- What enforcement removes -----------------------------------------------------------------------------------------


def test_old_traces_go_with_all_their_rows() -> None:
    policy(retention_days=30)
    old = [Run(days=days, labels={"team": "blue"}, note="note").write() for days in (30.1, 31, 400)]
    young = Run(days=29.9, labels={"team": "blue"}, note="note").write()
    before = rows_of(young)
    assert all(before.values()), "the world has rows in every table"
    done = enforced()
    assert (done.deleted, done.stripped, done.protected, done.complete) == (3, 0, 0, True)
    assert done.oldest == Trace.objects.get(id=young).started_at
    assert done.cutoff == NOW - 30 * DAY
    assert left() == {young}
    assert rows_of(young) == before
    assert not any(sum(rows_of(each).values()) for each in old)


def test_numbers_and_the_audit_chain_stay() -> None:
    policy(retention_days=1)
    for _ in range(3):
        Run(days=2).write()
    rollups = list(Rollup.objects.order_by("id").values())
    enforced()
    assert left() == set()
    assert list(Rollup.objects.order_by("id").values()) == rollups
    assert verify_chain(tenant_id=ACME).valid


def test_each_enforcement_is_audited_once_with_its_counts() -> None:
    policy(retention_days=30)
    Run(days=31).write()
    Run(days=31, labels={"hold": ""}).write()
    enforced()
    (entry,) = events("retention.enforce")
    assert entry == {
        "deleted": 1,
        "stripped": 0,
        "protected": 1,
        "cutoff": "2026-01-11T12:00:00.000Z",
        "complete": True,
    }


def test_without_a_policy_the_default_one_is_enforced() -> None:
    old, young = Run(days=91).write(), Run(days=89).write()
    assert enforced().deleted == 1
    assert old not in left()
    assert left() == {young}


def test_a_tenant_without_traces() -> None:
    done = enforced()
    assert (done.deleted, done.oldest, done.complete) == (0, None, True)


def test_a_running_trace_is_never_touched() -> None:
    policy(retention_days=1, sampling_strategy="errors_only", storage_mode="minimal")
    trace_id = Run(days=400, status="running").write()
    done = enforced()
    assert (done.deleted, done.stripped, done.protected) == (0, 0, 0)
    assert texts(trace_id) == {"input", "step 1"}


MARKED = [{"labels": {key: "x"}} for key in PROTECTING_KEYS] + [{"note": key} for key in PROTECTING_KEYS]


@pytest.mark.parametrize("marks", MARKED, ids=lambda marks: str(marks.get("note") or next(iter(marks["labels"]))))
@pytest.mark.parametrize("days", [0.5, 400])
def test_a_marked_trace_is_never_touched(days: float, marks: dict[str, Any]) -> None:
    trace_id = Run(days=days, **marks).write()
    policy(retention_days=1, sampling_strategy="errors_only", storage_mode="minimal")
    done = enforced()
    assert (done.deleted, done.stripped, done.protected) == (0, 0, 1)
    assert texts(trace_id) == ALL


def test_another_tenants_mark_and_another_key_protect_nothing() -> None:
    Run(days=400, labels={"team": "hold"}, note="tag").write()
    Run(days=400, tenant_id=GLOBEX, labels={"hold": ""}).write()
    assert enforced().deleted == 1
    assert len(left(GLOBEX)) == 1


def test_inside_the_window_goes_what_the_strategy_does_not_keep() -> None:
    kept = {next(ids_where(sampled=True)) for _ in range(2)}
    dropped = {next(ids_where(sampled=False)) for _ in range(3)}
    for trace_id in kept | dropped:
        Run(id=trace_id, days=1).write()
    failed = Run(id=next(ids_where(sampled=False)), days=1, status="error").write()
    policy(sampling_strategy="sampled", sample_rate=0.1)
    assert enforced().deleted == 3
    assert left() == kept | {failed}
    policy(sampling_strategy="errors_only")
    assert enforced().deleted == 2
    assert left() == {failed}


def test_texts_go_step_by_step_and_never_come_back() -> None:
    trace_id = Run(days=1, status="error").write()
    policy(storage_mode="summary")
    assert enforced().stripped == 1
    assert texts(trace_id) == {"input", "error"}
    assert enforced().stripped == 0, "nothing is left to do"
    policy(storage_mode="minimal")
    assert enforced().stripped == 1
    assert texts(trace_id) == set()
    policy(storage_mode="full")
    assert enforced().stripped == 0
    assert Trace.objects.get(id=trace_id).storage_mode == "minimal"
    assert rows_of(trace_id)["TraceStep"] == 2


def test_a_dry_run_counts_the_same_and_changes_nothing() -> None:
    Run(days=400).write()
    Run(days=400, labels={"hold": ""}).write()
    young = Run(days=1).write()
    policy(storage_mode="summary")
    before = left()
    dry = enforced(dry_run=True)
    assert left() == before
    assert texts(young) == ALL
    assert events("retention.enforce") == []
    wet = enforced()
    assert (dry.deleted, dry.stripped, dry.protected) == (wet.deleted, wet.stripped, wet.protected) == (1, 1, 1)


def test_pages_and_batches_cover_every_trace_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enforcement, "PAGE", 7)
    monkeypatch.setattr(enforcement, "FIRST_BATCH", 3)
    monkeypatch.setattr(enforcement, "REST", 0.0)
    for number in range(40):
        Run(days=91 + number // 10).write()  # ten start at the same instant
    seen: list[int] = []
    done = enforced(progress=lambda each: seen.append(each.deleted))
    assert done.deleted == 40
    assert seen == sorted(seen)
    assert len(seen) >= 40 / 7
    assert left() == set()


def test_work_that_is_stopped_says_so_and_goes_on_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enforcement, "PAGE", 5)
    for _ in range(12):
        Run(days=91).write()
    asked = iter([False, True])
    first = enforced(stopped=lambda: next(asked))
    assert (first.deleted, first.complete) == (5, False)
    assert events("retention.enforce")[0]["complete"] is False
    second = enforced()
    assert (second.deleted, second.complete) == (7, True)


def test_an_enforcement_that_breaks_off_is_audited(monkeypatch: pytest.MonkeyPatch) -> None:
    Run(days=91).write()

    def fail(done: Enforcement) -> None:
        raise RuntimeError("the terminal is gone")

    with pytest.raises(RuntimeError):
        enforced(progress=fail)
    (entry,) = events("retention.enforce")
    assert (entry["deleted"], entry["complete"]) == (1, False)


def test_all_policies_are_enforced_and_nothing_else() -> None:
    policy(retention_days=30)
    policy(GLOBEX, retention_days=60)
    for tenant_id in (ACME, GLOBEX, "nobody"):
        Run(days=45, tenant_id=tenant_id).write()
    Run(days=400, tenant_id="nobody").write()
    done = enforce_all(actor="user:test", now=NOW)
    assert [(each.tenant_id, each.deleted) for each in done] == [(ACME, 1), (GLOBEX, 0)]
    assert len(left("nobody")) == 2


@hypothesis_settings(max_examples=25)
@given(
    runs=st.lists(
        st.tuples(
            st.integers(0, 60),
            st.sampled_from(["success", "error", "cancelled", "running"]),
            st.sampled_from(["", "hold", "team"]),
        ),
        max_size=8,
    ),
    days=st.integers(1, 60),
    strategy=st.sampled_from(STRATEGIES),
    mode=st.sampled_from(STORAGE_MODES),
)
def test_enforcing_twice_is_enforcing_once(
    runs: list[tuple[int, Status, str]], days: int, strategy: str, mode: str
) -> None:
    empty_database()
    demanding.forget()
    for age, status, label in runs:
        Run(days=age, status=status, labels={label: "x"} if label else {}).write()
    held = {run.id for run in Trace.objects.all() if run.status == "running"}
    policy(retention_days=days, sampling_strategy=strategy, storage_mode=mode)
    first = enforced()
    remaining = left()
    assert held <= remaining
    assert len(remaining) == len(runs) - first.deleted
    again = enforced()
    assert (again.deleted, again.stripped, again.protected) == (0, 0, first.protected)
    assert left() == remaining


# --- The schedule -----------------------------------------------------------------------------------------------------


def test_the_schedule_takes_its_turn_once_in_a_period() -> None:
    policy(retention_days=30)
    turns = [enforce_due(now=NOW + timedelta(hours=hours), every=DAY) for hours in (0, 1, 23.9, 24, 25)]
    assert [turn is not None for turn in turns] == [True, False, False, True, False]
    assert [each.tenant_id for each in all_policies()] == [ACME], "the schedule's own row is no policy"
    assert retention_stats(tenant_id=None).policies == 1


def test_of_many_who_ask_one_gets_the_turn() -> None:
    policy(retention_days=30)
    turns: list[object] = []

    def ask() -> None:
        try:
            turns.append(enforce_due(now=NOW, every=DAY))
        finally:
            connection.close()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(turns) == 8
    assert sum(turn is not None for turn in turns) == 1


def test_a_turn_that_was_stopped_is_given_back() -> None:
    policy(retention_days=30)
    assert enforce_due(now=NOW, every=DAY, stopped=lambda: True) == []
    assert enforce_due(now=NOW, every=DAY) is not None
    assert enforce_due(now=NOW, every=DAY) is None


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
