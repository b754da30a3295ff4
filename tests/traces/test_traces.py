"""Reading runs over HTTP: filters, pages, one trace, sums; and that the sums are those of the rows."""

from __future__ import annotations

import base64
import random
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from apps.agents.delivery.sweeper import sweep
from apps.traces.domain.record import Status, Step
from apps.traces.models import Rollup, Trace
from apps.traces.services.recording import add_steps, close_trace
from clasper.core.clock import iso
from clasper.core.db import atomic_batch
from clasper.core.ids import new_id
from clasper.core.money import NanoUSD
from clasper.core.usage import Usage
from tests.conftest import run
from tests.traces.stored_run import START, StoredRun
from tests.world import ACME, GLOBEX, Server, tenant_key

NO_TRACE = "018f4e9a-7c2b-7d3e-8a4f-5b6c7d8e9f00"


def listed(server: Server, **query: Any) -> list[str]:
    response = server.get("/traces", params=query)
    assert response.status_code == 200, response.text
    return [trace["id"] for trace in response.json()["traces"]]


# --- Filters ----------------------------------------------------------------------------------------------------------

CROWD: dict[str, dict[str, Any]] = {
    "plain": {},
    "failed": {"status": "error"},
    "late": {"status": "timeout", "started_at": START + timedelta(days=1)},
    "sales": {"agent_id": "sales", "model": "gpt-4o"},
    "claude": {"provider": "anthropic", "model": "claude-sonnet-4-5", "workspace_id": "shop"},
    "dev": {"environment": "dev", "status": "running"},
    "labelled": {"labels": {"team": "blue", "empty": ""}},
    "marked": {"labels": {"team": "red"}},
    "dear": {"cost": 2_500_000_000, "kind": "llm_task", "user_id": "u-9"},
    "risky": {"risk": "high", "environment": "dev", "replay_of": NO_TRACE},
    "hosted": {"provider": "openrouter", "model": "openai/gpt-4o"},
    "linked": {"task_id": "task-1", "message_id": "message-1", "document_id": "document-1"},
    "wordy": {"message": 'Say "100%" of_it', "answer": "Grüße aus Köln\nBis bald"},
    "stranger": {"tenant_id": GLOBEX},
}
OWN = set(CROWD) - {"stranger"}
FILTERS: list[tuple[dict[str, Any], set[str]]] = [
    ({}, set(CROWD)),
    ({"tenant_id": ACME}, OWN),
    ({"tenant_id": GLOBEX}, {"stranger"}),
    ({"tenant_id": "nobody"}, set()),
    ({"tenant_id": ACME, "status": "error"}, {"failed"}),
    ({"tenant_id": ACME, "status": "timeout"}, {"late"}),
    ({"tenant_id": ACME, "status": "running"}, {"dev"}),
    ({"tenant_id": ACME, "agent_id": "sales"}, {"sales"}),
    ({"tenant_id": ACME, "agent_role": "sales"}, {"sales"}),
    ({"tenant_id": ACME, "model": "gpt-4o"}, {"sales"}),
    ({"tenant_id": ACME, "model": "openai/gpt-4o"}, {"sales", "hosted"}),
    ({"tenant_id": ACME, "model": "openai/gpt-4o-mini", "status": "error"}, {"failed"}),
    ({"tenant_id": ACME, "model": "anthropic/gpt-4o"}, set()),
    ({"tenant_id": ACME, "workspace_id": "shop"}, {"claude"}),
    ({"tenant_id": ACME, "environment": "dev"}, {"dev", "risky"}),
    ({"tenant_id": ACME, "environment": "dev", "risk": "high"}, {"risky"}),
    ({"tenant_id": ACME, "risk": "high"}, {"risky"}),
    ({"tenant_id": ACME, "risk_level": "high"}, {"risky"}),
    ({"tenant_id": ACME, "risk": "critical"}, set()),
    ({"tenant_id": ACME, "replay_of": NO_TRACE.upper()}, {"risky"}),
    ({"tenant_id": ACME, "kind": "llm_task"}, {"dear"}),
    ({"tenant_id": ACME, "kind": "send"}, OWN - {"dear"}),
    ({"tenant_id": ACME, "user_id": "u-9"}, {"dear"}),
    ({"tenant_id": ACME, "min_cost": "2.5"}, {"dear"}),
    ({"tenant_id": ACME, "min_cost": "2.500000001"}, set()),
    ({"tenant_id": ACME, "max_cost": "2.499999999"}, OWN - {"dear"}),
    ({"tenant_id": ACME, "min_cost": "0.000027", "max_cost": 1, "status": "error"}, {"failed"}),
    ({"tenant_id": ACME, "text": "GRÜSSE"}, set()),
    ({"tenant_id": ACME, "text": "AUS k"}, {"wordy"}),
    ({"tenant_id": ACME, "text": '"100%" of_'}, {"wordy"}),
    ({"tenant_id": ACME, "text": "100_"}, set()),
    ({"tenant_id": ACME, "text": "%"}, {"wordy"}),
    ({"tenant_id": ACME, "text": "task-1"}, {"linked"}),
    ({"tenant_id": ACME, "text": "message-1"}, {"linked"}),
    ({"text": "document-1"}, {"linked"}),
    ({"tenant_id": ACME, "text": "u-9"}, {"dear"}),
    ({"tenant_id": ACME, "text": "u-9", "status": "error"}, set()),
    ({"tenant_id": ACME, "text": "hello", "label": "team"}, {"labelled", "marked"}),
    ({"tenant_id": ACME, "label": "team", "status": "error"}, set()),
    ({"tenant_id": ACME, "label": "team"}, {"labelled", "marked"}),
    ({"tenant_id": ACME, "label": "team", "label_value": "red"}, {"marked"}),
    ({"tenant_id": ACME, "label": "empty", "label_value": ""}, {"labelled"}),
    ({"label": "team", "label_value": "blue"}, {"labelled"}),
    ({"tenant_id": ACME, "start_date": iso(START + timedelta(hours=1))}, {"late"}),
    ({"tenant_id": ACME, "end_date": iso(START + timedelta(hours=1))}, OWN - {"late"}),
    ({"tenant_id": ACME, "start_date": iso(START), "end_date": iso(START)}, OWN - {"late"}),
    ({"tenant_id": ACME, "start_date": "2026-02-11"}, {"late"}),
    ({"tenant_id": ACME, "start_time": "2026-02-11"}, {"late"}),
    ({"tenant_id": ACME, "end_time": "2026-02-10"}, OWN - {"late"}),
    ({"tenant_id": ACME, "status": "success", "agent_id": "support", "model": "gpt-4o"}, set()),
]


@pytest.mark.parametrize(("query", "expected"), FILTERS, ids=[str(query)[:80] for query, _ in FILTERS])
def test_filters_narrow(server: Server, query: dict[str, Any], expected: set[str]) -> None:
    names = {StoredRun(**facts).write(): name for name, facts in CROWD.items()}
    assert {names[found] for found in listed(server, **query)} == expected
    assert server.get("/traces", params=query).json()["total"] == len(expected)


NO_QUERIES: list[tuple[dict[str, Any], set[str]]] = [
    ({"limit": 0}, {"limit"}),
    ({"limit": 101}, {"limit"}),
    ({"limit": "ten"}, {"limit"}),
    ({"offset": -1}, {"offset"}),
    ({"offset": 10_001}, {"offset"}),
    ({"status": "lost"}, {"status"}),
    ({"risk": "none"}, {"risk"}),
    ({"min_cost": -1}, {"min_cost"}),
    ({"min_cost": "much"}, {"min_cost"}),
    ({"min_cost": "NaN"}, {"min_cost"}),
    ({"min_cost": 2, "max_cost": 1}, {"max_cost"}),
    ({"replay_of": "x"}, {"replay_of"}),
    ({"text": ""}, {"text"}),
    ({"text": "x" * 201}, {"text"}),
    ({"text": "\x00"}, {"text"}),
    ({"label_value": "x"}, {"label_value"}),
    ({"start_date": "2026-02-11", "end_date": "2026-02-10"}, {"end_date"}),
    ({"start_date": "yesterday"}, {"start_date"}),
    ({"cursor": "AAAA"}, {"cursor"}),
    ({"cursor": "…"}, {"cursor"}),
    ({"cursor": base64.urlsafe_b64encode(b"2026-02-10T12:00:00.000Z|' OR 1=1").decode()}, {"cursor"}),
    ({"cursor": base64.urlsafe_b64encode(f"then|{NO_TRACE}".encode()).decode()}, {"cursor"}),
    ({"cursor": base64.urlsafe_b64encode(f"0001-01-01T00:00:00+23:59|{NO_TRACE}".encode()).decode()}, {"cursor"}),
    (
        {
            "limit": 0,
            "status": "lost",
            "label_value": "x",
            "cursor": "AAAA",
            "min_cost": -1,
            "start_date": "2026-02-11",
            "end_date": "2026-02-10",
            "offset": "x",
        },
        {"limit", "status", "label_value", "cursor", "min_cost", "end_date", "offset"},
    ),
]


@pytest.mark.parametrize(("query", "fields"), NO_QUERIES, ids=[str(query)[:80] for query, _ in NO_QUERIES])
def test_an_invalid_query(server: Server, query: dict[str, Any], fields: set[str]) -> None:
    response = server.get("/traces", params=query)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request"), response.text
    assert set(response.json()["details"]["fieldErrors"]) == fields


# --- Pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_pages_cover_everything_once(server: Server, limit: int) -> None:
    """Also where many runs began in the same millisecond, and while new ones arrive."""
    dice = random.Random(3)
    moments = [START + timedelta(milliseconds=dice.randrange(8)) for _ in range(30)]
    ids = {StoredRun(started_at=moment).write() for moment in moments}
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = server.get("/traces", params={"limit": limit, **({"cursor": cursor} if cursor else {})}).json()
        assert page["limit"] == limit
        seen += [trace["id"] for trace in page["traces"]]
        cursor = page["next_cursor"]
        StoredRun(started_at=START + timedelta(hours=1)).write()
    assert len(seen) == len(set(seen))
    assert set(seen) == ids
    rows = [(trace.started_at, trace.id) for trace in Trace.objects.filter(id__in=seen)]
    assert seen == [trace_id for _, trace_id in sorted(rows, reverse=True)]


def test_offset_pages_still_work(server: Server) -> None:
    ids = [StoredRun(started_at=START + timedelta(seconds=n)).write() for n in range(5)][::-1]
    page = server.get("/traces", params={"limit": 2, "offset": 2}).json()
    assert [trace["id"] for trace in page["traces"]] == ids[2:4]
    assert (page["total"], page["total_is_exact"], page["offset"]) == (5, True, 2)


# --- One trace --------------------------------------------------------------------------------------------------------


def test_a_foreign_trace_is_no_trace(server: Server) -> None:
    own, foreign = StoredRun().write(), StoredRun(tenant_id=GLOBEX).write()
    key = tenant_key(ACME)
    assert server.get(f"/traces/{own}", key=key).status_code == 200
    assert server.get(f"/traces/{own.upper()}", key=key).status_code == 200
    for name in (foreign, new_id(), "x", "%00", "..%2Fbudget"):
        response = server.get(f"/traces/{name}", key=key)
        assert (response.status_code, response.json()["code"]) == (404, "not_found"), name
    assert [trace["id"] for trace in server.get("/traces", key=key).json()["traces"]] == [own]
    refused = server.get("/traces", key=key, params={"tenant_id": GLOBEX})
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")


def test_reading_needs_its_scope(server: Server) -> None:
    trace_id = StoredRun().write()
    key = tenant_key(ACME, "agents:run")
    for path in ("/traces", "/traces/stats", f"/traces/{trace_id}"):
        assert server.get(path, key=key).status_code == 403
        assert server.request("GET", path, key="").status_code == 403


def test_a_run_under_way_is_shown(server: Server) -> None:
    trace_id = StoredRun(status="running").write()
    trace = server.trace(trace_id)
    assert (trace["status"], trace["end_time"], trace["duration_ms"], trace["output"]) == ("running", None, None, None)
    assert trace["skill_versions"] == {"orders": "1.0.0"}


def test_steps_keep_their_order_and_texts(server: Server) -> None:
    told = StoredRun(status="running")
    told.write()
    steps = [
        Step(seq=n, type="tool_call", name=f"tool:{n}", status="ok", started_at=START, duration_ms=n, input={"n": n})
        for n in range(1, 4)
    ]
    for step in (steps[0], steps[1]):
        with atomic_batch() as batch:
            add_steps(tenant_id=ACME, trace_id=told.id, steps=[step])(batch)
    with atomic_batch() as batch:
        add_steps(tenant_id=ACME, trace_id=told.id, steps=steps[2:])(batch)
    shown = server.trace(told.id)["steps"]
    assert [(step["seq"], step["tool_name"], step["input"]) for step in shown] == [
        (n, f"tool:{n}", {"n": n}) for n in range(1, 4)
    ]


# --- Sums -------------------------------------------------------------------------------------------------------------


def stats(server: Server, **query: Any) -> dict[str, Any]:
    response = server.get("/traces/stats", params=query)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_stats_are_the_sums(server: Server) -> None:
    counts: dict[Status, int] = {"success": 3, "error": 1, "timeout": 1, "cancelled": 1, "running": 2}
    for status, number in counts.items():
        for _ in range(number):
            StoredRun(status=status).write()
    StoredRun(tenant_id=GLOBEX).write()
    assert stats(server, tenant_id=ACME) == {
        "total_traces": 6,
        "traces_by_status": {"success": 3, "error": 1, "timeout": 1, "cancelled": 1},
        "avg_duration_ms": 1500,
        "total_tokens": 6 * 120,
        "total_cost": 6 * 27_000 / 10**9,
        "error_rate": 0.5,
    }
    assert stats(server)["total_traces"] == 7
    assert stats(server, tenant_id="nobody")["error_rate"] == 0
    assert stats(server, tenant_id=ACME, start_date="2026-02-11")["total_traces"] == 0
    assert stats(server, tenant_id=ACME, start_date="2026-02-10", end_date="2026-02-10")["total_traces"] == 6


def test_rollups_equal_a_full_scan(server: Server) -> None:
    dice = random.Random(11)
    crowd = [
        StoredRun(
            tenant_id=dice.choice([ACME, GLOBEX]),
            agent_id=dice.choice(["support", "sales"]),
            workspace_id=dice.choice(["default", "shop"]),
            environment=dice.choice(["prod", "dev"]),
            model=dice.choice(["gpt-4o", "gpt-4o-mini"]),
            status=dice.choice(["success", "error", "timeout", "cancelled"]),
            risk=dice.choice(["low", "medium", "high"]),
            started_at=START.replace(hour=23, minute=59, second=58) + timedelta(seconds=dice.randrange(-90_000, 4)),
            duration_ms=dice.randrange(5000),
            usage=Usage(input=dice.randrange(1000), cached=dice.randrange(100), output=dice.randrange(500)),
            cost=dice.randrange(10**9),
        )
        for _ in range(60)
    ]
    expected: Counter[tuple[str, ...]] = Counter()
    for told in crowd:
        told.write()
        for name, value in told.dimensions().items():
            place = (told.tenant_id, told.ended_at.date().isoformat(), name, value)
            amounts = (1, told.usage.prompt_tokens, told.usage.output, told.cost, told.duration_ms)
            for column, amount in enumerate(amounts):
                expected[(*place, str(column))] += amount
    found: Counter[tuple[str, ...]] = Counter()
    for row in Rollup.objects.all():
        place = (row.tenant_id, row.day.isoformat(), row.dimension, row.value)
        for column, amount in enumerate((row.runs, row.input_tokens, row.output_tokens, row.cost, row.duration_ms)):
            found[(*place, str(column))] += amount
    assert found == expected
    assert stats(server)["total_cost"] == sum(told.cost for told in crowd) / 10**9


def test_a_swept_run_is_shown_and_summed(server: Server) -> None:
    told = StoredRun(status="running")
    told.write()
    step = Step(
        seq=1,
        type="llm_call",
        name="gpt-4o-mini",
        status="ok",
        started_at=START,
        duration_ms=5,
        prompt_tokens=100,
        completion_tokens=20,
        cost=NanoUSD(27_000),
    )
    with atomic_batch() as batch:
        add_steps(tenant_id=ACME, trace_id=told.id, steps=[step])(batch)
    assert run(sweep(now=START + timedelta(minutes=1))).runs == 0
    assert run(sweep(now=START + timedelta(minutes=3))).runs == 1
    assert run(sweep(now=START + timedelta(minutes=4))).runs == 0
    trace = server.trace(told.id)
    assert (trace["status"], trace["error_code"], trace["duration_ms"]) == ("error", "interrupted", 180_000)
    assert (trace["total_tokens"], trace["total_cost"]) == (120, 27_000 / 10**9)
    assert stats(server)["total_cost"] == 27_000 / 10**9
    assert [entry["event_type"] for entry in server.audit(trace_id=told.id)] == ["run.swept"]


def test_a_trace_is_closed_once(store: None) -> None:
    told = StoredRun()
    told.write()
    with atomic_batch() as batch:
        assert not close_trace(told.closing())(batch)
    assert Rollup.objects.get(dimension="status").runs == 1
