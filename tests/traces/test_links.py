"""Runs by the task, document or message they belong to."""

from __future__ import annotations

from typing import Any

import pytest

from tests.traces.stored_run import StoredRun
from tests.world import ACME, GLOBEX, Server, tenant_key

CROWD: dict[str, dict[str, Any]] = {
    "plain": {},
    "first": {"task_id": "t-1", "message_id": "m-1"},
    "second": {"task_id": "t-1", "message_id": "m-2", "document_id": "d-1"},
    "stranger": {"tenant_id": GLOBEX, "task_id": "t-1"},
}
LINKED: list[tuple[dict[str, str], set[str]]] = [
    ({"task_id": "t-1"}, {"first", "second", "stranger"}),
    ({"task_id": "t-1", "tenant_id": ACME}, {"first", "second"}),
    ({"message_id": "m-1"}, {"first"}),
    ({"document_id": "d-1"}, {"second"}),
    ({"task_id": "t-1", "message_id": "m-2"}, {"second"}),
    ({"task_id": "t-1", "message_id": "m-3"}, set()),
    ({"task_id": "t-2"}, set()),
]


@pytest.mark.parametrize(("query", "expected"), LINKED, ids=[str(query) for query, _ in LINKED])
def test_runs_by_their_links(query: dict[str, str], expected: set[str], server: Server) -> None:
    names = {StoredRun(**facts).write(): name for name, facts in CROWD.items()}
    page = server.get("/traces/by-entity", params=query).json()
    assert {names[row["id"]] for row in page["traces"]} == expected
    assert (page["total"], page["total_is_exact"], page["next_cursor"]) == (len(expected), True, None)
    if expected:
        row = page["traces"][0]
        assert row in server.get("/traces").json()["traces"], "it is the row of the list"


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ({}, {"task_id"}),
        ({"limit": 0}, {"task_id", "limit"}),
        ({"task_id": ""}, {"task_id"}),
        ({"message_id": "x" * 129, "cursor": "x"}, {"message_id", "cursor"}),
    ],
    ids=["nothing", "limit", "blank", "long and no cursor"],
)
def test_an_invalid_query(query: dict[str, Any], fields: set[str], server: Server) -> None:
    answer = server.get("/traces/by-entity", params=query)
    assert answer.status_code == 400
    assert set(answer.json()["details"]["fieldErrors"]) == fields


def test_a_foreign_run_is_not_linked(server: Server) -> None:
    StoredRun(tenant_id=GLOBEX, task_id="t-1").write()
    key = tenant_key(ACME)
    assert server.get("/traces/by-entity", params={"task_id": "t-1"}, key=key).json()["traces"] == []
    refused = server.get("/traces/by-entity", params={"task_id": "t-1", "tenant_id": GLOBEX}, key=key)
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
