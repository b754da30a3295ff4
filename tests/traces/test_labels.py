"""Labels: merged, removed, limited, audited, and found again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from clasper.core.ids import new_id
from clasper.core.redaction import default_redactor
from tests.traces.stored_run import StoredRun
from tests.world import ACME, GLOBEX, Server, tenant_key

STEPS: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"baseline": "true"}, {"baseline": "true", "team": "blue"}),
    ({"team": "red"}, {"baseline": "true", "team": "red"}),
    ({"baseline": None, "reviewed": "yes"}, {"reviewed": "yes", "team": "red"}),
    ({"reviewed": "", "absent": None}, {"team": "red"}),
    ({}, {"team": "red"}),
    ({" spaced ": " kept "}, {" spaced ": " kept ", "team": "red"}),
]


def label(server: Server, trace_id: str, labels: Any, **options: Any) -> Any:
    return server.post(f"/traces/{trace_id}/label", {"labels": labels}, **options)


def test_labels_are_merged_and_removed(server: Server) -> None:
    trace_id = StoredRun(labels={"team": "blue"}).write()
    for changes, expected in STEPS:
        answer = label(server, trace_id.upper(), changes)
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"status": "ok", "trace_id": trace_id, "labels": expected}
        assert server.trace(trace_id)["labels"] == expected


def test_each_change_is_audited_and_nothing_else(server: Server) -> None:
    trace_id = StoredRun(labels={"team": "blue"}).write()
    key = tenant_key(ACME, "traces:write")
    for changes in ({"baseline": "true", "team": ""}, {"baseline": "true"}, {}):
        assert label(server, trace_id, changes, key=key).status_code == 200
    (entry,) = server.audit(event_type="trace.label")
    assert (entry["tenant_id"], entry["trace_id"]) == (ACME, trace_id)
    assert entry["actor"].startswith("key:")
    assert entry["details"] == {"set": {"baseline": "true"}, "removed": ["team"]}


def test_values_are_redacted(server: Server) -> None:
    trace_id = StoredRun().write()
    assert label(server, trace_id, {"who": "mara@example.com"}).json()["labels"] == {"who": "[EMAIL]"}
    assert "mara" not in str(server.audit(event_type="trace.label"))


def test_a_key_that_redaction_empties_is_withheld(server: Server, settings: Any) -> None:
    settings.CLASPER_REDACTION_STRATEGY = "drop"
    default_redactor.cache_clear()
    try:
        assert label(server, StoredRun().write(), {"mara@example.com": "yes"}).json()["labels"] == {"[WITHHELD]": "yes"}
    finally:
        default_redactor.cache_clear()


FAULTY: dict[str, Any] = {
    "nothing": None,
    "a text": "baseline",
    "a list": ["baseline"],
    "an empty key": {"": "x"},
    "a long key": {"k" * 65: "x"},
    "a long value": {"k": "x" * 257},
    "a number": {"k": 1},
    "a truth": {"k": True},
    "an object": {"k": {"a": "b"}},
    "51 labels": {f"k{n}": "x" for n in range(51)},
}


@pytest.mark.parametrize("fault", FAULTY)
def test_invalid_labels_change_nothing(fault: str, server: Server) -> None:
    trace_id = StoredRun(labels={"team": "blue"}).write()
    answer = label(server, trace_id, FAULTY[fault])
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request"), answer.text
    assert answer.json()["details"]["fieldErrors"].keys() == {"labels"}
    assert server.trace(trace_id)["labels"] == {"team": "blue"}
    assert server.audit(event_type="trace.label") == []


def test_fifty_labels_are_accepted(server: Server) -> None:
    trace_id = StoredRun().write()
    assert len(label(server, trace_id, {f"k{n}": "x" * 256 for n in range(50)}).json()["labels"]) == 50
    assert label(server, trace_id, {"one more": "x"}).status_code == 400
    assert label(server, trace_id, {"one more": "x", "k0": None}).status_code == 200


def test_a_foreign_trace_is_no_trace(server: Server) -> None:
    foreign = StoredRun(tenant_id=GLOBEX, labels={"team": "blue"}).write()
    for trace_id in (foreign, new_id(), "x"):
        answer = label(server, trace_id, {"team": "red"}, key=tenant_key(ACME))
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert server.trace(foreign)["labels"] == {"team": "blue"}
    found = server.get("/traces/by-label", params={"label": "team"}, key=tenant_key(ACME)).json()
    assert (found["traces"], found["total"]) == ([], 0)
    refused = server.get("/traces/by-label", params={"label": "team", "tenant_id": GLOBEX}, key=tenant_key(ACME))
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")


def test_concurrent_changes_are_all_kept(server: Server) -> None:
    trace_id = StoredRun().write()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: label(server, trace_id, {f"k{n}": "x"}).status_code, range(8)))
    assert answers == [200] * 8
    assert server.trace(trace_id)["labels"] == {f"k{n}": "x" for n in range(8)}


BY_LABEL: list[tuple[dict[str, Any], set[str]]] = [
    ({"label": "team"}, {"blue", "red", "stranger"}),
    ({"label_key": "team"}, {"blue", "red", "stranger"}),
    ({"label": "team", "tenant_id": ACME}, {"blue", "red"}),
    ({"label": "team", "value": "red"}, {"red", "stranger"}),
    ({"label": "team", "label_value": "red", "tenant_id": ACME}, {"red"}),
    ({"label": "team", "value": ""}, set()),
    ({"label": "Team"}, set()),
    ({"label": "te%"}, set()),
    ({"label": 'a"b', "tenant_id": ACME}, {"quoted"}),
]


@pytest.mark.parametrize(("query", "expected"), BY_LABEL, ids=[str(query) for query, _ in BY_LABEL])
def test_runs_by_label(server: Server, query: dict[str, Any], expected: set[str]) -> None:
    crowd = {
        StoredRun(labels={"team": "blue"}).write(): "blue",
        StoredRun(labels={"team": "red"}).write(): "red",
        StoredRun(labels={'a"b': "x"}).write(): "quoted",
        StoredRun().write(): "plain",
        StoredRun(tenant_id=GLOBEX, labels={"team": "red"}).write(): "stranger",
    }
    page = server.get("/traces/by-label", params=query).json()
    assert {crowd[trace_id] for trace_id in page["traces"]} == expected
    assert (page["total"], page["total_is_exact"], page["next_cursor"]) == (len(expected), True, None)


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ({}, {"label"}),
        ({"label": ""}, {"label"}),
        ({"value": "x", "limit": 501, "cursor": "x"}, {"label", "limit", "cursor"}),
        ({"label": "a", "limit": 0}, {"limit"}),
    ],
    ids=["nothing", "blank", "all at once", "limit"],
)
def test_an_invalid_query(server: Server, query: dict[str, Any], fields: set[str]) -> None:
    answer = server.get("/traces/by-label", params=query)
    assert answer.status_code == 400
    assert set(answer.json()["details"]["fieldErrors"]) == fields
