"""Rebuilt day sums are those that settling kept, whatever was lost of them, and never less than that."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from apps.traces.domain.record import Redacted, Status, TraceEnd, TraceRisk, TraceStart
from apps.traces.models import Rollup, Trace
from apps.traces.services.enforcement import enforce
from apps.traces.services.recording import close_trace, open_trace
from apps.traces.services.retention import set_policy
from apps.traces.services.rollups import DIMENSIONS, Rebuilt, rebuild
from clasper.core.db import Batch, GroupWriter, atomic_batch
from clasper.core.ids import new_id
from clasper.core.money import NanoUSD
from clasper.core.tenancy import ALL_TENANTS, OneTenant, TenantScope
from clasper.core.usage import Usage
from tests.conftest import empty_database, run
from tests.world import ACME, GLOBEX

NOW = datetime(2026, 2, 10, 12, 0, tzinfo=UTC)
MIDNIGHT = datetime(2026, 2, 9, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A run to be written as the engine does."""

    tenant_id: str = ACME
    status: Status = "success"
    agent: str = "support"
    model: str = "gpt-4o"
    workspace: str = "default"
    environment: str = "prod"
    risk: str = "low"
    started_at: datetime = MIDNIGHT
    took: timedelta = timedelta(seconds=3)
    usage: Usage = Usage(input=100, cached=10, cache_write=1, output=20)
    cost: int = 7_000

    def open(self) -> str:
        trace_id = new_id()
        opening = TraceStart(
            id=trace_id,
            tenant_id=self.tenant_id,
            workspace_id=self.workspace,
            environment=self.environment,
            agent_id=self.agent,
            user_id="u-1",
            kind="send",
            provider="openai",
            model=self.model,
            snapshot_hash="",
            risk=TraceRisk(score=1, level=self.risk, factors={}),
            skills={},
            labels={},
            input=Redacted({}, {}),
            started_at=self.started_at,
            lease_until=self.started_at + timedelta(minutes=2),
        )
        with atomic_batch() as batch:
            assert open_trace(opening)(batch)
        return trace_id

    def closing(self, trace_id: str) -> TraceEnd:
        return TraceEnd(
            id=trace_id,
            tenant_id=self.tenant_id,
            status=self.status,
            ended_at=self.started_at + self.took,
            duration_ms=self.took // timedelta(milliseconds=1),
            provider="openai",
            model=self.model,
            usage=self.usage,
            cost=NanoUSD(self.cost),
            price_version="",
            estimated=False,
        )

    def write(self) -> str:
        trace_id = self.open()
        with atomic_batch() as batch:
            assert close_trace(self.closing(trace_id))(batch)
        return trace_id


def sums() -> set[tuple[Any, ...]]:
    columns = ("tenant_id", "day", "dimension", "value", "runs", "input_tokens", "output_tokens", "cost", "duration_ms")
    return set(Rollup.objects.values_list(*columns))


def silent(tenant_id: str, day: date, runs: int | None) -> None:
    pass


OF_ACME = OneTenant(ACME)


def rebuilt(tenants: TenantScope = OF_ACME, now: datetime = NOW) -> Rebuilt:
    return sum(rebuild(tenants=tenants, now=now, progress=silent).values(), Rebuilt())


runs = st.builds(
    Ran,
    tenant_id=st.sampled_from([ACME, GLOBEX]),
    status=st.sampled_from(["success", "error", "timeout", "cancelled"]),
    agent=st.sampled_from(["support", "sales"]),
    model=st.sampled_from(["gpt-4o", "m" * 125]),
    environment=st.sampled_from(["prod", "dev"]),
    risk=st.sampled_from(["low", "critical"]),
    started_at=st.integers(-50_000, 129_600).map(lambda seconds: MIDNIGHT + timedelta(seconds=seconds)),
    took=st.sampled_from([timedelta(), timedelta(seconds=100), timedelta(days=2), timedelta(milliseconds=1)]),
    usage=st.builds(Usage, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    cost=st.integers(0, 10**12),
)
acts = st.lists(runs | st.sampled_from(["rebuild", "rebuild all", "lose", "open"]), max_size=12)


@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts)
def test_any_runs_and_rebuilds_give_the_sums_of_a_full_scan(store: None, happened: list[Ran | str]) -> None:
    """`lose` damages the sums; the rebuild at the end mends them."""
    empty_database()
    written: list[Ran] = []
    for act in happened:
        if isinstance(act, Ran):
            act.write()
            written.append(act)
        elif act == "lose":
            Rollup.objects.filter(dimension__in=["status", "agent"]).delete()
            Rollup.objects.update(runs=0, cost=5)
        elif act == "open":
            Ran().open()
        else:
            rebuilt(OF_ACME if act == "rebuild" else ALL_TENANTS)
    rebuilt(ALL_TENANTS)
    assert sums() == scanned(written)


@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(runs | st.sampled_from(["rebuild", "rebuild all", "retain"]), max_size=12))
def test_retention_takes_nothing_from_the_sums(store: None, happened: list[Ran | str]) -> None:
    """The sums are those of all runs there ever were, in whatever order they end, are removed and summed again."""
    empty_database()
    set_policy(tenant_id=ACME, actor="user:test", now=NOW, values={"retention_days": 1})
    written: list[Ran] = []
    for act in happened:
        if isinstance(act, Ran):
            act.write()
            written.append(act)
        elif act == "retain":
            enforce(tenant_id=ACME, actor="user:test", now=NOW)
        else:
            rebuilt(OF_ACME if act == "rebuild" else ALL_TENANTS)
    rebuilt(ALL_TENANTS)
    assert sums() == scanned(written)


def scanned(written: list[Ran]) -> set[tuple[Any, ...]]:
    found: dict[tuple[str, date, str, str], list[int]] = {}
    for each in written:
        model = f"openai/{each.model}"[:128]
        values = (each.status, model, each.agent, each.workspace, each.environment, each.risk)
        milliseconds = each.took // timedelta(milliseconds=1)
        amounts = (1, each.usage.prompt_tokens, each.usage.output, each.cost, milliseconds)
        for dimension, value in zip(DIMENSIONS, values, strict=True):
            key = (each.tenant_id, (each.started_at + each.took).date(), dimension, value)
            place = found.setdefault(key, [0] * 5)
            place[:] = [a + b for a, b in zip(place, amounts, strict=True)]
    return {(*key, *amounts) for key, amounts in found.items()}


def test_a_day_with_deleted_traces_keeps_its_sums(store: None) -> None:
    gone = [Ran(cost=1).write(), Ran(cost=2).write()]
    Ran(cost=3).write()
    Ran(started_at=MIDNIGHT - timedelta(days=5)).write()
    before = sums()
    Trace.objects.filter(id__in=gone).delete()
    assert rebuilt() == Rebuilt(days=1, runs=1, kept=1)
    assert sums() == before
    Trace.objects.all().delete()
    assert rebuilt() == Rebuilt(kept=2)
    assert sums() == before


def test_a_day_that_lost_one_dimension_counts_by_the_others(store: None) -> None:
    gone = Ran().write()
    Ran().write()
    Trace.objects.filter(id=gone).delete()
    Rollup.objects.filter(dimension="status").delete()
    before = sums()
    assert rebuilt() == Rebuilt(kept=1)
    assert sums() == before


def test_other_dimensions_and_tenants_are_left_alone(store: None) -> None:
    Ran().write()
    Ran(tenant_id=GLOBEX).write()
    Rollup.objects.filter(tenant_id=GLOBEX).update(cost=0)
    Rollup.objects.create(tenant_id=ACME, day=MIDNIGHT.date(), dimension="colour", value="red", runs=1)
    before = sums()
    assert rebuilt() == Rebuilt(days=1, runs=1)
    assert sums() == before


def test_a_run_swept_weeks_later_counts_on_the_day_it_ended(store: None) -> None:
    Ran(started_at=MIDNIGHT - timedelta(days=20), took=timedelta(days=20, hours=1), status="error").write()
    Ran().write()
    before = sums()
    Rollup.objects.all().delete()
    assert rebuilt() == Rebuilt(days=1, runs=2)
    assert sums() == before


def test_runs_that_settle_meanwhile_are_counted_once(store: None) -> None:
    """A writer settles runs of today and yesterday while their days are rebuilt again and again."""
    now = datetime.now(UTC)
    told = [Ran(started_at=now - timedelta(hours=12 * (n % 3)), agent=f"a{n % 5}") for n in range(120)]
    closings = [each.closing(each.open()) for each in told]
    writer = GroupWriter()
    done = threading.Event()

    async def settle_all() -> None:
        for each in closings:
            await writer.submit(close_trace(each), key=ACME)
            await asyncio.sleep(0.002)
        done.set()

    def rebuild_all() -> int:
        rounds = 0
        while not done.is_set():
            rebuilt(now=now)
            rounds += 1
        connection.close()
        return rounds

    async def both() -> int:
        _, rounds = await asyncio.gather(settle_all(), asyncio.to_thread(rebuild_all))
        return rounds

    assert run(both()) > 1
    writer.close()
    assert sums() == scanned(told)
    rebuilt(now=now)
    assert sums() == scanned(told)


def test_the_command_reports_what_it_did(store: None) -> None:
    gone = Ran(tenant_id=GLOBEX).write()
    Ran(tenant_id=GLOBEX).write()
    Ran().write()
    Trace.objects.filter(id=gone).delete()
    out = StringIO()
    call_command("rebuild_rollups", json=True, stdout=out)
    assert json.loads(out.getvalue()) == {
        "days": 1,
        "runs": 1,
        "kept_days": 1,
        "tenants": {
            ACME: {"days": 1, "runs": 1, "kept_days": 0},
            GLOBEX: {"days": 0, "runs": 0, "kept_days": 1},
        },
    }
    out, err = StringIO(), StringIO()
    call_command("rebuild_rollups", stdout=out, stderr=err)
    assert out.getvalue().strip() == "Days computed: 1, runs in them: 1, days kept: 1."
    assert err.getvalue().splitlines() == ["acme 2026-02-09: 1 runs", "globex 2026-02-09: kept: traces were deleted"]
    out = StringIO()
    call_command("rebuild_rollups", tenant="nobody", json=True, stdout=out)
    assert json.loads(out.getvalue())["days"] == 0


def test_a_batch_in_trouble_leaves_the_day_as_it_was(store: None, monkeypatch: pytest.MonkeyPatch) -> None:
    Ran().write()
    Rollup.objects.filter(dimension="risk").delete()
    before = sums()

    def broken(batch: Batch) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(Batch, "flush", broken)
    with pytest.raises(RuntimeError):
        rebuilt()
    monkeypatch.undo()
    assert sums() == before
