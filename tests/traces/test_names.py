"""Names that people give: keys of labels and notes, models, authors. What is set is found, and no secret is kept."""

from __future__ import annotations

from typing import Any

import pytest

from tests.traces.stored_run import StoredRun
from tests.world import ACME, Server, tenant_key


@pytest.mark.parametrize("key", [" team", "team ", " ", "a\tb\n", "äöü", "a/b?c=d&e"])
def test_what_can_be_set_can_be_found(server: Server, key: str) -> None:
    trace_id = StoredRun().write()
    assert server.post(f"/traces/{trace_id}/label", {"labels": {key: "v"}}).json()["labels"] == {key: "v"}
    assert server.get("/traces/by-label", params={"label": key}).json()["traces"] == [trace_id]
    listed = server.get("/traces", params={"label": key, "label_value": "v"}).json()
    assert [row["id"] for row in listed["traces"]] == [trace_id]


def test_keys_are_redacted_like_values(server: Server) -> None:
    trace_id = StoredRun().write()
    labelled = server.post(f"/traces/{trace_id}/label", {"labels": {"mail mara@example.com": "x"}})
    assert labelled.json()["labels"] == {"mail [EMAIL]": "x"}
    noted = server.post(f"/traces/{trace_id}/annotate", {"key": "card 4111111111111111", "value": ""})
    assert noted.json()["annotation"]["key"] == "card [CREDIT_CARD]"
    shown = server.get(f"/traces/{trace_id}").text + str(server.audit())
    assert "mara@" not in shown
    assert "4111111111111111" not in shown


@pytest.mark.parametrize(
    ("given", "shown"), [("user:ada", "user:ada"), ("ada@example.com", "[EMAIL]"), ("x" * 160, "x" * 160)]
)
@pytest.mark.parametrize("name", ["created_by", "createdBy"])
def test_a_note_names_its_author_and_the_audit_the_credential(
    server: Server, name: str, given: str, shown: str
) -> None:
    trace_id = StoredRun().write()
    note = {"key": "reviewed", "value": "", name: given}
    answer = server.post(f"/traces/{trace_id}/annotate", note, key=tenant_key(ACME, "traces:write"))
    assert answer.json()["annotation"]["createdBy"] == shown
    (entry,) = server.audit(event_type="trace.annotate")
    assert entry["actor"].startswith("key:")
    assert entry["details"]["created_by"] == shown


def test_all_errors_of_labels_are_reported_at_once(server: Server) -> None:
    trace_id = StoredRun().write()
    labels: dict[str, Any] = {"a": 1, "b": True, "": "x", "k" * 65: "x", "d": "v" * 257, "fine": "x"}
    answer = server.post(f"/traces/{trace_id}/label", {"labels": labels})
    assert answer.status_code == 400
    assert answer.json()["details"]["fieldErrors"]["labels"] == [
        "['a']: Expected a string or null, got an integer",
        "['b']: Expected a string or null, got a boolean",
        "['']: Expected a string of length >= 1",
        f"['{'k' * 65}']: Expected a string of length <= 64",
        "['d']: Expected a string of length <= 256",
    ]
    assert server.trace(trace_id)["labels"] == {}


@pytest.mark.parametrize("model", ["openai/", "/gpt-4o-mini", "/"])
def test_half_a_pair_is_a_name_that_no_model_has(server: Server, model: str) -> None:
    StoredRun().write()
    assert server.get("/traces", params={"model": model}).json()["traces"] == []


def test_a_cursor_and_an_offset_contradict_each_other(server: Server) -> None:
    for _ in range(2):
        StoredRun().write()
    cursor = server.get("/traces", params={"limit": 1}).json()["next_cursor"]
    answer = server.get("/traces", params={"cursor": cursor, "offset": 1})
    assert answer.status_code == 400
    assert answer.json()["details"]["fieldErrors"].keys() == {"offset"}
    assert server.get("/traces", params={"cursor": cursor, "offset": 0}).status_code == 200


def test_an_export_with_huge_costs_is_audited(server: Server) -> None:
    StoredRun().write()
    answer = server.get("/traces/export", params={"format": "csv", "max_cost": "10000000.5", "min_cost": "0"})
    assert answer.status_code == 200
    (entry,) = server.audit(event_type="trace.export")
    assert entry["details"]["filters"] == {"max_cost": 10000000.5, "min_cost": 0}
