"""Whoever reads what was said in a run leaves an entry; lists and facts alone leave none."""

from __future__ import annotations

from typing import Any

import pytest

from apps.traces.services.retention import strip
from clasper.core.db import atomic_batch
from tests.traces.stored_run import StoredRun
from tests.world import ACME, GLOBEX, Server, tenant_key


def reads(server: Server, **filters: Any) -> list[dict[str, Any]]:
    return server.audit(event_type="trace.read", **filters)


def test_reading_a_trace_is_audited(server: Server) -> None:
    trace_id = StoredRun().write()
    assert server.get(f"/traces/{trace_id.upper()}", key=tenant_key(ACME, "traces:read")).status_code == 200
    (entry,) = reads(server)
    assert (entry["tenant_id"], entry["trace_id"]) == (ACME, None)
    assert entry["details"] == {"trace_id": trace_id, "part": "trace"}
    assert entry["actor"].startswith("key:")
    assert server.audit(trace_id=trace_id) == [], "the run itself did nothing of it"


def test_what_holds_no_texts_leaves_no_entry(server: Server) -> None:
    trace_id, other = StoredRun(task_id="t-1").write(), StoredRun().write()
    with atomic_batch() as batch:
        strip(batch, ACME, [trace_id], "minimal")
    asked = [
        f"/traces/{trace_id}",
        f"/traces/{trace_id}/annotations",
        "/traces",
        "/traces/stats",
        "/traces/by-entity?task_id=t-1",
        "/traces/export?format=csv",
    ]
    assert [server.get(path).status_code for path in asked] == [200] * len(asked)
    assert server.post("/traces/diff", {"base_trace_id": other, "compare_trace_id": trace_id}).status_code == 200
    assert reads(server) == []


def test_a_diff_of_answers_is_audited_for_both(server: Server) -> None:
    ids = [StoredRun(answer=answer).write() for answer in ("yes", "no")]
    body = {"base_trace_id": ids[0], "compare_trace_id": ids[1], "include_output_diff": True}
    assert server.post("/traces/diff", body).status_code == 200
    assert [entry["details"] for entry in reads(server)] == [{"trace_id": each, "part": "diff"} for each in ids]


def test_reading_what_a_replay_needs_is_audited(server: Server) -> None:
    trace_id = server.send().json()["trace_id"]
    assert server.get(f"/traces/{trace_id}/replay", key=tenant_key(ACME, "traces:read")).status_code == 200
    (entry,) = reads(server)
    assert entry["details"] == {"trace_id": trace_id, "part": "replay"}


@pytest.mark.parametrize("path", ["", "/replay"])
def test_a_stranger_reads_nothing_and_leaves_nothing(server: Server, path: str) -> None:
    trace_id = StoredRun().write()
    assert server.get(f"/traces/{trace_id}{path}", key=tenant_key(GLOBEX)).status_code == 404
    assert reads(server) == []
