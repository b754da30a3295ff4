"""What enforcing retention removes from the real database, and what nobody may remove."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from apps.audit.services.reading import verify_chain
from apps.traces.domain.record import Status
from apps.traces.domain.retention import PROTECTING_KEYS, STORAGE_MODES, STRATEGIES
from apps.traces.models import Rollup, Trace
from apps.traces.services import enforcement
from apps.traces.services.enforcement import Enforcement, enforce_all
from apps.traces.services.retention import demanding
from tests.conftest import empty_database
from tests.traces.retention_deeds import ALL, DAY, enforced, events, policy
from tests.traces.retention_runs import NOW, Run, ids_where, left, rows_of, texts
from tests.world import ACME, GLOBEX

pytestmark = pytest.mark.usefixtures("fresh")


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
