"""Annotations: added, redacted, audited, shown in order, and never changed."""

from __future__ import annotations

from typing import Any

import pytest

from apps.traces.services import annotations as notes
from clasper.core.ids import new_id
from tests.traces.stored_run import StoredRun
from tests.world import ACME, GLOBEX, Server, tenant_key


def annotate(server: Server, trace_id: str, **note: Any) -> Any:
    key = note.pop("credential", None)
    return server.post(f"/traces/{trace_id}/annotate", {"key": "incident", "value": "INC-123", **note}, key=key)


def test_a_note_is_added_and_audited(server: Server) -> None:
    trace_id = StoredRun().write()
    answer = annotate(server, trace_id.upper(), credential=tenant_key(ACME, "traces:write"))
    assert answer.status_code == 201, answer.text
    note = answer.json()["annotation"]
    (entry,) = server.audit(event_type="trace.annotate")
    assert note == {
        "id": note["id"],
        "traceId": trace_id,
        "key": "incident",
        "value": "INC-123",
        "createdAt": entry["timestamp"],
        "createdBy": entry["actor"],
    }
    assert entry["actor"].startswith("key:")
    assert (entry["tenant_id"], entry["trace_id"]) == (ACME, trace_id)
    assert entry["details"] == {"annotation_id": note["id"], "key": "incident"}
    assert server.trace(trace_id)["annotations"] == [note]


def test_notes_are_shown_in_the_order_they_came(server: Server) -> None:
    trace_id, other = StoredRun().write(), StoredRun().write()
    for n in range(3):
        assert annotate(server, trace_id, key="note", value=str(n)).status_code == 201
    annotate(server, other)
    shown = server.get(f"/traces/{trace_id}/annotations").json()["annotations"]
    assert [note["value"] for note in shown] == ["0", "1", "2"]
    assert shown == server.trace(trace_id)["annotations"]


def test_values_are_redacted(server: Server) -> None:
    trace_id = StoredRun().write()
    assert annotate(server, trace_id, value="ask mara@example.com").json()["annotation"]["value"] == "ask [EMAIL]"
    assert "mara@" not in server.get(f"/traces/{trace_id}/annotations").text


@pytest.mark.parametrize(
    ("note", "fields"),
    [
        ({"key": ""}, {"key"}),
        ({"key": None, "value": None}, {"key", "value"}),
        ({"key": "k" * 65, "value": "x" * 10_001}, {"key", "value"}),
        ({"value": {"a": 1}}, {"value"}),
    ],
    ids=["no key", "nothing", "too long", "an object"],
)
def test_invalid_annotations(note: dict[str, Any], fields: set[str], server: Server) -> None:
    trace_id = StoredRun().write()
    answer = annotate(server, trace_id, **note)
    assert answer.status_code == 400
    assert set(answer.json()["details"]["fieldErrors"]) == fields
    assert server.get(f"/traces/{trace_id}/annotations").json() == {"annotations": []}


def test_an_empty_note_is_a_note(server: Server) -> None:
    assert annotate(server, StoredRun().write(), value="").json()["annotation"]["value"] == ""


def test_notes_of_a_trace_are_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "MAX_ANNOTATIONS", 2)
    trace_id = StoredRun().write()
    assert [annotate(server, trace_id).status_code for _ in range(3)] == [201, 201, 400]


def test_a_foreign_trace_is_no_trace(server: Server) -> None:
    foreign, key = StoredRun(tenant_id=GLOBEX).write(), tenant_key(ACME)
    for trace_id in (foreign, new_id(), "x"):
        assert annotate(server, trace_id, credential=key).status_code == 404
        assert server.get(f"/traces/{trace_id}/annotations", key=key).status_code == 404
    assert server.get(f"/traces/{foreign}/annotations").json() == {"annotations": []}
