"""Exports: the rows of the list as a stream, safe in spreadsheets, without texts unless asked for, and audited."""

from __future__ import annotations

import csv
import io
import json
from datetime import timedelta
from typing import Any

import pytest

from apps.traces.domain.filters import Filters
from apps.traces.domain.record import Step
from apps.traces.services import exporting
from apps.traces.services.recording import add_steps
from clasper.core.db import atomic_batch
from clasper.core.tenancy import OneTenant
from tests.traces.stored_run import START, StoredRun
from tests.world import ACME, GLOBEX, Server, tenant_key

SECRET = "the vault is behind the painting"


def export(server: Server, *, key: str | None = None, **query: Any) -> Any:
    answer = server.get("/traces/export", params=query, key=key)
    assert answer.status_code == 200, answer.text
    return answer


def objects(server: Server, **query: Any) -> list[dict[str, Any]]:
    answer = export(server, format="ndjson", **query)
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def cells(server: Server, **query: Any) -> list[dict[str, str]]:
    answer = export(server, format="csv", **query)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(answer.text)))


def with_a_step(**facts: Any) -> str:
    told = StoredRun(status="running", message=SECRET, **facts)
    told.write()
    step = Step(
        seq=1, type="tool_call", name="orders:lookup", status="ok", started_at=START, duration_ms=1, input=SECRET
    )
    with atomic_batch() as batch:
        add_steps(tenant_id=told.tenant_id, trace_id=told.id, steps=[step])(batch)
    return told.id


def test_ndjson_holds_the_rows_of_the_list(server: Server) -> None:
    for n in range(3):
        StoredRun(started_at=START + timedelta(seconds=n), labels={"n": str(n)}).write()
    assert objects(server) == server.get("/traces").json()["traces"]
    assert objects(server, label="n", label_value="1") == server.get("/traces").json()["traces"][1:2]
    assert objects(server, status="error") == []


def test_csv_holds_the_same(server: Server) -> None:
    trace_id = StoredRun(cost=1, labels={"team": "blue, red"}).write()
    StoredRun(status="running").write()
    first = next(row for row in cells(server) if row["id"] == trace_id)
    shown = server.get("/traces", params={"status": "success"}).json()["traces"][0]
    assert first.keys() == shown.keys()
    assert first["total_cost"] == "0.000000001"
    assert json.loads(first["labels"]) == {"team": "blue, red"}
    assert (first["estimated"], first["duration_ms"], first["start_time"]) == ("false", "1500", shown["start_time"])
    header = export(server, format="csv", status="error").text
    assert header.strip().split(",") == list(shown)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"], ids=repr)
def test_no_cell_is_a_formula(text: str, server: Server) -> None:
    StoredRun(user_id=text, labels={"=x": "=1"}).write()
    (row,) = cells(server)
    assert row["user_id"] == f"'{text}"
    assert not [value for value in row.values() if value.startswith(("=", "+", "-", "@", "\t", "\r"))]


@pytest.mark.parametrize("include", [None, "steps", "content", "steps,content"])
def test_texts_leave_only_when_asked_for(include: str | None, server: Server) -> None:
    with_a_step()
    named = (include or "").split(",")
    answer = export(server, format="ndjson", **({"include": include} if include else {}))
    (run,) = [json.loads(line) for line in answer.text.splitlines()]
    assert (SECRET in answer.text) == ("content" in named)
    assert ("steps" in run) == ("steps" in named)
    if "steps" in named:
        assert run["steps"][0]["tool_name"] == "orders:lookup"
        assert run["steps"][0].get("input") == (SECRET if "content" in named else None)
    if "content" in named:
        assert run["input"] == {"message": SECRET}
    (entry,) = server.audit(event_type="trace.export")
    assert entry["details"]["include"] == sorted(name for name in named if name)


def test_an_export_is_audited_with_what_was_asked_for(server: Server) -> None:
    export(server, format="csv", key=tenant_key(ACME, "traces:read"), status="error", start_date="2026-02-10")
    (entry,) = server.audit(event_type="trace.export")
    assert entry["tenant_id"] == ACME
    assert entry["actor"].startswith("key:")
    filters = {"tenant_id": ACME, "status": "error", "start": "2026-02-10T00:00:00.000Z"}
    assert entry["details"] == {"format": "csv", "include": [], "filters": filters}


@pytest.mark.parametrize("query", [{}, {"environment": "prod"}, {"label": "team"}], ids=str)
def test_batches_cover_everything_once(
    query: dict[str, Any], store: None, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "BATCH", 4)
    ids = [StoredRun(started_at=START + timedelta(seconds=n // 3), labels={"team": "x"}).write() for n in range(11)]
    StoredRun(tenant_id=GLOBEX, labels={"team": "x"}).write()
    batches = list(exporting.export_batches(filters=Filters(tenants=OneTenant(ACME), **query)))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    assert sorted(run.id for batch in batches for run in batch) == sorted(ids)
    assert sorted(row["id"] for row in objects(server, tenant_id=ACME, **query)) == sorted(ids)


def test_only_ones_own_runs(server: Server) -> None:
    own = StoredRun().write()
    StoredRun(tenant_id=GLOBEX).write()
    text = export(server, format="ndjson", key=tenant_key(ACME)).text
    assert [json.loads(line)["id"] for line in text.splitlines()] == [own]
    refused = server.get("/traces/export", params={"format": "csv", "tenant_id": GLOBEX}, key=tenant_key(ACME))
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
    assert len(server.audit(event_type="trace.export")) == 1, "what is refused is no export"


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ({}, {"format"}),
        ({"format": "xlsx", "status": "lost"}, {"format", "status"}),
        ({"format": "csv", "include": "steps"}, {"include"}),
        ({"format": "ndjson", "include": "secrets"}, {"include"}),
        ({"format": "csv", "label_value": "x", "min_cost": -1}, {"label_value", "min_cost"}),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, set) else str(value),
)
def test_an_invalid_query(query: dict[str, Any], fields: set[str], server: Server) -> None:
    answer = server.get("/traces/export", params=query)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json")
    assert set(answer.json()["details"]["fieldErrors"]) == fields
    assert server.audit(event_type="trace.export") == []
