"""Reserve → settle on the real database: what is held, booked, freed, warned about and rolled over."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from apps.audit.models import AuditEntry
from apps.governance.models import Budget, BudgetHold, BudgetPeriod
from apps.governance.services.budgets import TenantBudget, check_budget, get_budget, set_budget
from apps.governance.services.reservations import (
    UNLIMITED,
    Reservation,
    release_expired,
    reserve,
    roll_over_due,
    settle_call,
)
from apps.governance.services.usage import record_usage
from clasper.core.db import atomic_batch
from clasper.core.errors import InvalidRequest, NotFound
from clasper.core.money import NanoUSD, from_usd
from clasper.core.usage import Usage

LEASE = timedelta(minutes=3)
DOLLAR = from_usd(1)


def give(now: datetime, tenant_id: str = "acme", **terms: Any) -> TenantBudget:
    return set_budget(tenant_id=tenant_id, actor="test:setup", now=now, **{"limit": DOLLAR, **terms})


def hold(now: datetime, trace_id: str, worst: int, at_least: int | None = None, tenant_id: str = "acme") -> Reservation:
    with atomic_batch() as batch:
        return reserve(
            batch,
            tenant_id=tenant_id,
            trace_id=trace_id,
            worst_case=NanoUSD(worst),
            at_least=NanoUSD(worst if at_least is None else at_least),
            lease_until=now + LEASE,
            now=now,
        )


def settle(now: datetime, trace_id: str, cost: int, *, keep_hold: bool = False, tenant_id: str = "acme") -> None:
    with atomic_batch() as batch:
        settle_call(
            batch,
            tenant_id=tenant_id,
            trace_id=trace_id,
            cost=NanoUSD(cost),
            now=now,
            actor="agent:test",
            keep_hold=keep_hold,
        )


def sweep(now: datetime, **options: Any) -> list[tuple[str, str]]:
    with atomic_batch() as batch:
        return release_expired(batch, now=now, **options)


def state(tenant_id: str = "acme") -> tuple[int, int, list[tuple[str, int]]]:
    """Spent, reserved, and the holds; checks that they agree."""
    budget = Budget.objects.get(tenant_id=tenant_id)
    holds = list(BudgetHold.objects.filter(tenant_id=tenant_id).order_by("trace_id").values_list("trace_id", "amount"))
    assert budget.reserved == sum(amount for _, amount in holds)
    return budget.spent, budget.reserved, holds


def warnings_of(tenant_id: str = "acme") -> list[dict[str, Any]]:
    entries = AuditEntry.objects.filter(tenant_id=tenant_id, event_type="budget.warning").order_by("seq")
    return [json.loads(entry.details) for entry in entries]


def test_a_call_is_reserved_and_settled(store: None, now: datetime) -> None:
    give(now)
    assert hold(now, "run-1", 400) == Reservation(True, NanoUSD(400), NanoUSD(DOLLAR - 400), DOLLAR, False)
    assert state() == (0, 400, [("run-1", 400)])
    settle(now, "run-1", 150)
    assert state() == (150, 0, [])


def test_what_does_not_fit_holds_all_that_is_left(store: None, now: datetime) -> None:
    give(now)
    hold(now, "run-1", DOLLAR - 100)
    assert hold(now, "run-2", 101, 101) == Reservation(False, NanoUSD(0), NanoUSD(100), DOLLAR, False)
    assert hold(now, "run-2", 500, 60) == Reservation(True, NanoUSD(100), NanoUSD(0), DOLLAR, False)
    assert not hold(now, "run-3", 1, 1).granted
    assert state() == (0, DOLLAR, [("run-1", DOLLAR - 100), ("run-2", 100)])


def test_a_call_that_costs_nothing_is_let_in_at_zero_left_and_beyond(store: None, now: datetime) -> None:
    give(now)
    hold(now, "run-1", DOLLAR)
    assert hold(now, "run-2", 0).granted
    settle(now, "run-1", DOLLAR + 5)
    assert hold(now, "run-3", 0) == Reservation(True, NanoUSD(0), NanoUSD(-5), DOLLAR, False)
    assert not hold(now, "run-4", 1).granted
    assert state() == (DOLLAR + 5, 0, [])


@pytest.mark.parametrize("watching", [False, True])
def test_nothing_limits_a_run_without_a_hard_limit(store: None, now: datetime, watching: bool) -> None:
    if watching:
        give(now, hard_limit=None)
    assert hold(now, "run-1", DOLLAR * 50) == Reservation(True, None, UNLIMITED, None, not watching)
    settle(now, "run-1", DOLLAR * 50)
    assert BudgetHold.objects.count() == 0
    if watching:
        assert state() == (DOLLAR * 50, 0, [])
        assert len(warnings_of()) == 1


def test_the_run_path_needs_two_statements(store: None, now: datetime) -> None:
    give(now)
    for tenant_id in ("acme", "globex"):
        with CaptureQueriesContext(
            connection,
        ) as queries:
            hold(now, "run-1", 10, tenant_id=tenant_id)
        statements = [each["sql"] for each in queries if each["sql"].split()[0] in ("SELECT", "UPDATE", "INSERT")]
        assert len(statements) == 2, statements


def test_a_run_of_several_calls(store: None, now: datetime) -> None:
    give(now)
    hold(now, "run-1", 400)
    settle(now, "run-1", 100, keep_hold=True)
    assert state() == (100, 0, [("run-1", 0)])
    hold(now, "run-1", 300)
    assert state() == (100, 300, [("run-1", 300)])
    hold(now, "run-1", 50)
    assert state() == (100, 350, [("run-1", 350)])
    settle(now, "run-1", 0)
    settle(now, "run-1", 0)
    assert state() == (100, 0, [])


def test_the_truth_is_booked_even_beyond_the_hold(store: None, now: datetime) -> None:
    give(now)
    hold(now, "run-1", 10)
    settle(now, "run-1", DOLLAR * 2)
    assert state() == (DOLLAR * 2, 0, [])


def test_the_soft_limit_warns_once_a_period(store: None, now: datetime) -> None:
    give(now, period="daily", soft_limit=from_usd("0.5"))
    settle(now, "run-1", from_usd("0.499999999"))
    assert warnings_of() == []
    settle(now, "run-2", 1)
    settle(now, "run-3", from_usd("0.3"))
    assert warnings_of() == [{"spent": 0.5, "soft_limit": 0.5, "limit": 1.0}]
    tomorrow = now + timedelta(days=1)
    settle(tomorrow, "run-4", from_usd("0.6"))
    assert len(warnings_of()) == 2
    entry = AuditEntry.objects.filter(event_type="budget.warning").latest("seq")
    assert (entry.actor, entry.trace_id) == ("agent:test", "run-4")


def test_a_raised_soft_limit_warns_again(store: None, now: datetime) -> None:
    give(now)
    settle(now, "run-1", from_usd("0.9"))
    give(now, limit=DOLLAR * 2)
    settle(now, "run-2", from_usd("0.8"))
    assert [each["soft_limit"] for each in warnings_of()] == [0.8, 1.6]


def test_leases_that_are_over_are_freed_in_tenant_order(store: None, now: datetime) -> None:
    give(now)
    give(now, "globex")
    hold(now, "run-3", 30, tenant_id="globex")
    hold(now + timedelta(seconds=1), "run-2", 20)
    hold(now + timedelta(seconds=2), "run-1", 10)
    hold(now + LEASE, "run-4", 40)
    assert sweep(now + LEASE - timedelta(seconds=1)) == []
    late = now + LEASE + timedelta(seconds=5)
    assert sweep(late, limit=2) == [("acme", "run-2"), ("globex", "run-3")]
    assert sweep(late) == [("acme", "run-1")]
    assert sweep(late) == []
    assert state() == (0, 40, [("run-4", 40)])
    settle(late, "run-2", 7)
    assert state() == (7, 40, [("run-4", 40)])


def test_a_new_period_begins_lazily(store: None, now: datetime) -> None:
    give(now, period="daily")
    hold(now, "run-1", 400)
    hold(now, "run-2", 500)
    settle(now, "run-1", 300)
    tomorrow = now + timedelta(days=1)
    view = get_budget(tenant_id="acme", now=tomorrow).budget
    assert (view.spent, view.reserved, view.period_start.date()) == (0, 500, tomorrow.date())
    assert state()[0] == 300
    assert hold(tomorrow, "run-3", DOLLAR - 500).granted
    settle(tomorrow, "run-2", 450)
    assert state() == (450, DOLLAR - 500, [("run-3", DOLLAR - 500)])
    history = BudgetPeriod.objects.get()
    assert (history.tenant_id, history.period, history.spent, history.limit) == ("acme", "daily", 300, DOLLAR)
    assert history.period_end == view.period_start


def test_periods_are_also_begun_in_the_background(store: None, now: datetime) -> None:
    give(now, period="daily")
    give(now, "globex", period="weekly")
    settle(now, "run-1", 300)
    with atomic_batch() as batch:
        assert roll_over_due(batch, now=now + timedelta(days=1)) == 1
    with atomic_batch() as batch:
        assert roll_over_due(batch, now=now + timedelta(days=1)) == 0
    assert state() == (0, 0, [])
    assert BudgetPeriod.objects.get().spent == 300


def spend_on(now: datetime, cost: int) -> None:
    with atomic_batch() as batch:
        record_usage(batch, tenant_id="acme", now=now, usage=Usage(10, 0, 0, 5), cost=NanoUSD(cost))


@pytest.mark.parametrize(("period", "opening"), [("daily", 4), ("weekly", 4 + 20), ("monthly", 4 + 20 + 100)])
def test_a_new_budget_counts_what_was_already_spent(store: None, now: datetime, period: str, opening: int) -> None:
    for days, cost in ((0, 4), (1, 20), (5, 100), (30, 3000)):
        spend_on(now - timedelta(days=days), cost)
    assert give(now, period=period).budget.spent == opening
    hold(now, "run-1", 9)
    for other, spent in (("daily", 4), ("weekly", 24), ("monthly", 124)):
        view = give(now, period=other).budget
        assert (view.spent, view.reserved) == (spent, 9)
    assert BudgetPeriod.objects.count() == 0


def test_setting_a_budget_is_audited_and_keeps_what_is_under_way(store: None, now: datetime) -> None:
    give(now, allow_unpriced=True)
    hold(now, "run-1", 400)
    settle(now, "run-2", 100)
    view = give(now, limit=DOLLAR * 3, hard_limit=DOLLAR * 2)
    amounts, alerts = view.budget, view.alerts
    assert (amounts.spent, amounts.reserved, amounts.remaining) == (100, 400, DOLLAR * 3 - 100)
    assert (alerts.soft_limit, alerts.hard_limit, amounts.allow_unpriced) == (from_usd("1.6"), DOLLAR * 2, True)
    assert view == get_budget(tenant_id="acme", now=now)
    assert not give(now, limit=DOLLAR * 3, allow_unpriced=False).budget.allow_unpriced
    first, second, _ = AuditEntry.objects.filter(event_type="budget.set").order_by("seq")
    before, after = json.loads(second.details)["before"], json.loads(second.details)["after"]
    assert json.loads(first.details)["before"] is None
    assert (before["limit"], after["limit"], after["hard_limit"], after["spent"]) == (1.0, 3.0, 2.0, 0.0000001)
    assert (first.actor, first.tenant_id) == ("test:setup", "acme")


def test_bad_terms_change_nothing(store: None, now: datetime) -> None:
    with pytest.raises(InvalidRequest):
        give(now, limit=NanoUSD(0), period="hourly")
    assert Budget.objects.count() == AuditEntry.objects.count() == 0


def test_a_lowered_hard_limit_lets_nothing_more_in(store: None, now: datetime) -> None:
    give(now)
    hold(now, "run-1", 900)
    give(now, limit=NanoUSD(500))
    assert hold(now, "run-2", 1) == Reservation(False, NanoUSD(0), NanoUSD(-400), NanoUSD(500), False)
    assert state() == (0, 900, [("run-1", 900)])


def test_a_budget_created_again_answers_for_the_holds_of_the_old_one(store: None, now: datetime) -> None:
    give(now)
    hold(now, "run-1", 400)
    Budget.objects.all().delete()
    settle(now, "run-0", 5)
    assert give(now).budget.reserved == 400
    settle(now, "run-1", 100)
    assert state() == (100, 0, [])


def test_a_check_answers_as_a_reservation_would(store: None, now: datetime) -> None:
    assert check_budget(tenant_id="acme", amount=DOLLAR, now=now).remaining_after is None
    give(now, period="daily")
    hold(now, "run-1", 100)
    settle(now, "run-2", 200)
    room = DOLLAR - 300
    fits = check_budget(tenant_id="acme", amount=NanoUSD(room), now=now)
    assert (fits.allowed, fits.remaining_after, len(fits.warnings or ())) == (True, 0, 1)
    tight = check_budget(tenant_id="acme", amount=NanoUSD(room + 1), now=now)
    assert (tight.allowed, tight.remaining, tight.requested, tight.warnings) == (False, room, room + 1, UNSET)
    assert check_budget(tenant_id="acme", amount=NanoUSD(5), now=now).warnings == ()
    assert check_budget(tenant_id="acme", amount=NanoUSD(room + 1), now=now + timedelta(days=1)).allowed
    assert state() == (200, 100, [("run-1", 100)])


def test_a_tenant_without_a_budget_has_none(store: None, now: datetime) -> None:
    give(now, "globex")
    with pytest.raises(NotFound):
        get_budget(tenant_id="acme", now=now)


# --- Any sequence of operations --------------------------------------------------------------------------------------

amounts = st.integers(0, 60)
runs = st.integers(0, 3)
operations = st.one_of(
    st.tuples(st.just("reserve"), runs, amounts, amounts),
    st.tuples(st.just("settle"), runs, st.floats(0, 1), st.booleans()),
    st.tuples(st.just("later"), st.sampled_from([1, 60, 4 * 60, 24 * 60])),
    st.tuples(st.just("sweep")),
    st.tuples(st.just("roll over")),
    st.tuples(st.just("set"), st.integers(1, 120), st.sampled_from(["daily", "weekly", "monthly"]), st.booleans()),
)
tenants = (f"tenant-{number}" for number in itertools.count())


@dataclass
class World:
    """A tenant's runs as the engine would drive them: no call costs more than it holds."""

    tenant_id: str
    now: datetime
    holds: dict[int, int] = field(default_factory=dict)
    bound: int | None = None

    def reserve(self, run: int, worst: int, at_least: int) -> None:
        answer = hold(self.now, self.trace_id(run), worst, at_least, tenant_id=self.tenant_id)
        assert answer.granted or answer.available < min(worst, at_least)
        self.holds[run] = self.holds.get(run, 0) + (answer.held or 0)

    def settle(self, run: int, share: float, keep_hold: bool) -> None:
        cost = int(self.holds.pop(run, 0) * share)
        settle(self.now, self.trace_id(run), cost, keep_hold=keep_hold, tenant_id=self.tenant_id)
        with atomic_batch() as batch:
            record_usage(batch, tenant_id=self.tenant_id, now=self.now, usage=Usage(1), cost=NanoUSD(cost))

    def sweep(self) -> None:
        for tenant_id, trace_id in sweep(self.now):
            if tenant_id == self.tenant_id:
                self.holds.pop(int(trace_id.rpartition("/")[2]), None)

    def set(self, limit: int, period: str, watch: bool) -> None:
        give(self.now, self.tenant_id, limit=NanoUSD(limit), period=period, hard_limit=None if watch else "limit")
        spent, reserved, _ = state(self.tenant_id)
        self.bound = None if watch else max(limit, spent + reserved)

    def trace_id(self, run: int) -> str:
        return f"{self.tenant_id}/{run}"


@given(st.lists(operations, max_size=25))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_sequence_overspends(store: None, now: datetime, steps: list[tuple[Any, ...]]) -> None:
    with atomic_batch():
        world = World(next(tenants), now)
        world.set(100, "daily", False)
        for name, *arguments in steps:
            if name == "later":
                world.now += timedelta(minutes=arguments[0])
            elif name == "roll over":
                with atomic_batch() as batch:
                    roll_over_due(batch, now=world.now)
            else:
                getattr(world, name)(*arguments)
            spent, reserved, _ = state(world.tenant_id)
            assert reserved == sum(world.holds.values())
            assert world.bound is None or spent + reserved <= world.bound
