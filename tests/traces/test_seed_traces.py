"""manage.py seed_traces: repeatable runs of the asked number, whose sums agree wherever they are shown."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models import F, Sum

from apps.governance.services.prices import price_book
from apps.traces.domain.sample_runs import sample_runs
from apps.traces.models import Rollup, Trace, TraceLabel, TracePayload, TraceSkill, TraceStep
from apps.traces.services import seeding
from clasper.core.clock import iso
from clasper.core.money import usd
from tests.world import ACME, GLOBEX, Server

UNTIL = datetime(2026, 2, 10, 12, tzinfo=UTC)


def seed(count: int = 300, **options: Any) -> dict[str, Any]:
    """Runs the command; returns what it prints with --json."""
    out = StringIO()
    call_command("seed_traces", count=count, json=True, stdout=out, **{"until": iso(UNTIL), **options})
    printed: dict[str, Any] = json.loads(out.getvalue())
    return printed


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeding, "BATCH", 128)


def test_lists_sums_and_usage_agree(server: Server, small_batches: None) -> None:
    seed(600, days=20)
    listed = []
    cursor: str | None = ""
    while cursor is not None:
        query = {"limit": 100, "tenant_id": ACME, **({"cursor": cursor} if cursor else {})}
        page = server.get("/traces", params=query).json()
        assert (page["total"], page["total_is_exact"]) == (600, True)
        listed += page["traces"]
        cursor = page["next_cursor"]
    stats = server.get("/traces/stats", params={"tenant_id": ACME}).json()
    usage = server.get("/usage", params={"tenant_id": ACME, "since": iso(UNTIL - timedelta(days=30))}).json()
    assert len(listed) == stats["total_traces"] == usage["requestCount"] == 600
    assert Counter(trace["status"] for trace in listed) == stats["traces_by_status"]
    assert sum(trace["total_tokens"] for trace in listed) == stats["total_tokens"] == usage["totalTokens"]
    assert stats["total_cost"] == usage["totalCost"] == pytest.approx(sum(trace["total_cost"] for trace in listed))
    assert stats["total_cost"] == usd(sum(Trace.objects.values_list("cost", flat=True)))


def test_every_dimension_sums_the_same(store: None, small_batches: None) -> None:
    seed(300)
    amounts = ("runs", "input_tokens", "output_tokens", "cost", "duration_ms")
    rows = Rollup.objects.values_list("dimension").annotate(*(Sum(name) for name in amounts))
    sums = {dimension: tuple(found) for dimension, *found in rows}
    assert set(sums) == {"status", "model", "agent", "workspace", "environment", "risk"}
    assert len(set(sums.values())) == 1
    assert sums["status"][0] == 300


def test_steps_are_those_of_their_runs(store: None) -> None:
    seed(300)
    prompt = F("input_tokens") + F("cached_tokens") + F("cache_write_tokens")
    runs = {row[0]: row[1:] for row in Trace.objects.values_list("id", prompt, "output_tokens", "cost", "ended_at")}
    steps = TraceStep.objects.values("trace_id").annotate(
        prompt=Sum("prompt_tokens"), output=Sum("completion_tokens"), paid=Sum("cost")
    )
    found = {row["trace_id"]: (row["prompt"], row["output"], row["paid"]) for row in steps}
    assert {trace_id: found.get(trace_id, (0, 0, 0)) for trace_id in runs} == {
        trace_id: facts[:3] for trace_id, facts in runs.items()
    }
    for step in TraceStep.objects.all():
        assert step.started_at + timedelta(milliseconds=step.duration_ms) <= runs[step.trace_id][3]
    assert set(TraceStep.objects.filter(type="tool_call").values_list("status", flat=True)) == {"ok"}
    assert TracePayload.objects.filter(seq=0).count() == 300


def test_a_seeded_trace_can_be_read(server: Server) -> None:
    seed(50)
    for trace_id in Trace.objects.filter(status="success").values_list("id", flat=True)[:20]:
        trace = server.trace(trace_id)
        assert trace["input"]["message"]
        assert trace["output"]["response"]
        assert trace["cost"]["totalCost"] > 0
        assert all(step["output"] for step in trace["steps"] if step["type"] == "tool_call")


def test_ids_and_times_fit(store: None) -> None:
    seed(400, days=7)
    rows = list(Trace.objects.order_by("started_at", "id").values_list("id", "started_at", "ended_at", "duration_ms"))
    for trace_id, started, ended, duration in rows:
        found = uuid.UUID(trace_id)
        assert (found.version, str(found)) == (7, trace_id)
        assert found.int >> 80 == round(started.timestamp() * 1000)
        assert UNTIL - timedelta(days=7, minutes=2) <= started <= ended <= UNTIL
        assert ended - started == timedelta(milliseconds=duration)
    by_hour = Counter(7 <= started.hour < 19 for _, started, _, _ in rows)
    assert by_hour[True] > 2 * by_hour[False]


def test_what_a_busy_tenant_has(store: None) -> None:
    seed(3000)
    for column, least in {
        "status": 4,
        "model": 6,
        "agent_id": 5,
        "workspace_id": 3,
        "kind": 4,
        "risk_level": 2,
    }.items():
        assert Trace.objects.order_by().values(column).distinct().count() >= least, column
    share = Trace.objects.filter(status="success").count() / 3000
    assert 0.88 < share < 0.95
    assert set(TraceLabel.objects.values_list("key", flat=True)) >= {"team", "channel", "release"}
    assert TraceLabel.objects.filter(key__in=["baseline", "incident", "hold"]).exists()


def test_costs_are_the_listed_prices() -> None:
    runs = sample_runs(tenant_id=ACME, count=200, days=3, seed=1, until=UNTIL, prices=price_book())
    single = 0
    for _, end, _ in runs:
        price = price_book().price(end.provider, end.model)
        assert (price.status, end.price_version) == ("priced", price.version)
        calls = [step for step in end.steps if step.cost]
        assert end.cost == sum(step.cost for step in calls)
        if len(calls) == 1:
            single += 1
            assert end.cost == price.cost(end.usage).total
    assert single > 20


TABLES: list[Any] = [Trace, TraceStep, TracePayload, TraceLabel, TraceSkill, Rollup]


def content() -> list[list[str]]:
    """All that the tables say, without the rows' own numbers."""
    return [
        sorted(str({**row, "id": row["id"] if table is Trace else ""}) for row in table.objects.values())
        for table in TABLES
    ]


def test_the_same_seed_gives_the_same_runs(store: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seed(100)
    first = content()
    for table in TABLES:
        table.objects.all().delete()
    monkeypatch.setattr(seeding, "BATCH", 7)
    seed(100)
    assert content() == first


@pytest.mark.parametrize("other", [{"seed": 2}, {"tenant": GLOBEX}, {"days": 91}], ids=["seed", "tenant", "days"])
def test_other_runs_can_be_added(store: None, other: dict[str, Any]) -> None:
    seed(50)
    seed(50, **other)
    assert Trace.objects.count() == 100
    assert sum(Rollup.objects.filter(dimension="status").values_list("runs", flat=True)) == 100


def test_the_same_runs_are_not_written_twice(store: None) -> None:
    seed(50)
    before = content()
    with pytest.raises(CommandError, match="exist already"):
        seed(50)
    assert content() == before


@pytest.mark.parametrize("count", [1, 127, 128, 129])
def test_the_count_is_exact(store: None, small_batches: None, count: int) -> None:
    printed = seed(count, days=2)
    assert (printed["count"], printed["until"]) == (count, iso(UNTIL))
    assert Trace.objects.count() == count


def test_production_needs_a_yes(store: None, settings: Any) -> None:
    settings.PRODUCTION = True
    with pytest.raises(CommandError, match="--yes"):
        seed(5)
    assert not Trace.objects.exists()
    seed(5, yes=True)
    assert Trace.objects.count() == 5


def test_progress_and_rate_are_reported(store: None, small_batches: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.traces.management.commands.seed_traces.PROGRESS_SECONDS", 0.0)
    out, err = StringIO(), StringIO()
    call_command("seed_traces", count=300, stdout=out, stderr=err)
    assert "300 runs of acme until" in out.getvalue()
    assert err.getvalue().splitlines() == ["128 of 300 runs", "256 of 300 runs", "300 of 300 runs"]


def test_every_error_is_named(store: None) -> None:
    with pytest.raises(CommandError) as caught:
        seed(0, days=0, tenant="", until="soon")
    assert all(option in str(caught.value) for option in ("--count", "--days", "--tenant", "--until"))
    with pytest.raises(CommandError, match="1970"):
        seed(1, until="1970-02-01")
