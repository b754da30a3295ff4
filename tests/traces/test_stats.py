"""GET /traces/stats with groups: facets, and what was spent on what, from the day sums."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from apps.traces.services import stats
from tests.traces.stored_run import START, StoredRun
from tests.world import ACME, GLOBEX, Server

GROUP_FIELDS = {"total_traces", "avg_duration_ms", "total_tokens", "total_cost"}


@pytest.fixture(autouse=True)
def runs(server: Server) -> None:
    """Three runs of acme on two days, and one of globex."""
    next_day = START + timedelta(days=1)
    StoredRun(model="gpt-4o", cost=9_000_000, agent_id="sales", workspace_id="shop").write()
    StoredRun(cost=1_000_001, status="error").write()
    StoredRun(cost=2_000_002, started_at=next_day, environment="dev", risk="high", duration_ms=500).write()
    StoredRun(tenant_id=GLOBEX, cost=5_000_000).write()


def groups(server: Server, by: str, **query: str) -> list[dict[str, Any]]:
    response = server.get("/traces/stats", params={"tenant_id": ACME, "group_by": by, **query})
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["groups_are_complete"] is True
    assert sum(group["total_traces"] for group in body["groups"]) == body["total_traces"]
    assert round(sum(group["total_cost"] for group in body["groups"]), 9) == round(body["total_cost"], 9)
    found: list[dict[str, Any]] = body["groups"]
    return found


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("status", {"success": 2, "error": 1}),
        ("model", {"openai/gpt-4o": 1, "openai/gpt-4o-mini": 2}),
        ("agent_id", {"sales": 1, "support": 2}),
        ("workspace_id", {"shop": 1, "default": 2}),
        ("environment", {"prod": 2, "dev": 1}),
        ("risk_level", {"low": 2, "high": 1}),
        ("day", {"2026-02-10": 2, "2026-02-11": 1}),
    ],
)
def test_runs_are_grouped(server: Server, by: str, expected: dict[str, int]) -> None:
    found = groups(server, by)
    assert {group[by]: group["total_traces"] for group in found} == expected
    assert all(group.keys() == {by} | GROUP_FIELDS for group in found)


def test_the_most_expensive_group_comes_first(server: Server) -> None:
    assert [group["total_cost"] for group in groups(server, "model")] == [0.009, 0.003000003]


def test_days_come_in_their_order(server: Server) -> None:
    found = groups(server, "model, day")
    assert [(group["day"], group["model"]) for group in found] == [
        ("2026-02-10", "openai/gpt-4o"),
        ("2026-02-10", "openai/gpt-4o-mini"),
        ("2026-02-11", "openai/gpt-4o-mini"),
    ]
    assert groups(server, "day", end_date="2026-02-10")[0]["avg_duration_ms"] == 1500


def test_groups_beyond_the_most_are_left_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "MOST_GROUPS", 1)
    body = server.get("/traces/stats", params={"tenant_id": ACME, "group_by": "day,model"}).json()
    assert [group["day"] for group in body["groups"]] == ["2026-02-11"]
    assert body["groups_are_complete"] is False


def test_without_groups_nothing_is_added(server: Server) -> None:
    assert "groups" not in server.get("/traces/stats", params={"tenant_id": ACME}).json()


@pytest.mark.parametrize("by", ["", "label", "model,agent_id", "day,day", "day,", "model,", "day,model,status"])
def test_what_is_no_group(server: Server, by: str) -> None:
    response = server.get("/traces/stats", params={"group_by": by, "start_date": "2026-13-01", "end_date": "x"})
    assert response.status_code == 400
    assert response.json()["details"]["fieldErrors"].keys() == {"group_by", "start_date", "end_date"}


def test_an_end_before_the_start(server: Server) -> None:
    response = server.get("/traces/stats", params={"start_date": "2026-02-11", "end_date": "2026-02-10"})
    assert response.status_code == 400
    assert response.json()["details"]["fieldErrors"].keys() == {"end_date"}
