"""The content that runs used: stored before it is named, once, and in nobody's way."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from apps.governance.services.reservations import reserve
from apps.workspaces.models import Snapshot, WorkspaceFile
from apps.workspaces.services import load_workspace
from apps.workspaces.services.snapshots import SHARED, load_files, store_snapshot
from clasper.core.clock import utc_now
from clasper.core.db import Batch, GroupWriter
from clasper.core.errors import NotFound
from clasper.core.money import NanoUSD
from fakes.llm import FakeProvider, reply
from tests.conftest import run
from tests.world import ACME, Server

_WAITING = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
def files(store: None, workspace: Path, settings: Any) -> Path:
    settings.CLASPER_WORKSPACE = workspace
    return workspace


def test_a_content_is_stored_once_byte_for_byte(files: Path, now: datetime) -> None:
    (files / "AGENTS.md").write_bytes((files / "SOUL.md").read_bytes())
    loaded = load_workspace(fresh=True)
    for _ in range(2):
        run(store_snapshot(loaded.snapshot_hash, tenant_id=SHARED, now=now))
    assert Snapshot.objects.count() == 1
    kept = load_files(loaded.snapshot_hash, tenant_id=ACME)
    assert kept == {path: (files / path).read_bytes() for path in kept}
    assert len(kept) == WorkspaceFile.objects.count() + 1 == 5


def test_a_content_that_was_replaced_meanwhile_is_stored(files: Path, now: datetime) -> None:
    loaded = load_workspace(fresh=True)
    (files / "SOUL.md").write_text("Somebody else.")
    assert load_workspace(fresh=True).snapshot_hash != loaded.snapshot_hash
    run(store_snapshot(loaded.snapshot_hash, tenant_id=SHARED, now=now))
    assert load_files(loaded.snapshot_hash, tenant_id=ACME)["SOUL.md"] == b"You are the support agent of a small shop."


def test_a_content_that_nobody_used_is_not_found(store: None) -> None:
    with pytest.raises(NotFound):
        load_files("sha256:nobody", tenant_id=ACME)


def test_a_refused_run_keeps_the_content_of_the_next_one(server: Server, openai: FakeProvider) -> None:
    openai.default = reply("Fine.")
    server.set_budget(limit=0.000_000_001)
    assert server.send().status_code == 402
    server.set_budget(limit=1.0)
    trace = server.trace(server.send().json()["trace_id"])
    assert load_files(trace["workspace_hash"], tenant_id=ACME)


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer at a time")
def test_processes_that_meet_the_same_content_do_not_wait_in_a_circle(server: Server, openai: FakeProvider) -> None:
    """Another process has stored a file and goes on to the tenant's budget while a run of that tenant stores it too."""
    openai.default = reply("Fine.")
    server.set_budget(limit=1.0)
    soul = b"You are the support agent of a small shop."
    stored = threading.Event()

    def job(batch: Batch) -> bool:
        batch.execute("INSERT INTO workspace_files (digest, content) VALUES (%s, %s)", (sha256(soul).hexdigest(), soul))
        stored.set()
        until = time.monotonic() + 10
        while not batch.fetch_all(_WAITING) and time.monotonic() < until:
            time.sleep(0.01)
        now, cost = utc_now(), NanoUSD(1000)
        lease = now + timedelta(minutes=1)
        return reserve(
            batch, tenant_id=ACME, trace_id="other", worst_case=cost, at_least=cost, lease_until=lease, now=now
        ).granted

    other = GroupWriter()
    outcomes: list[Any] = []
    process = threading.Thread(target=lambda: outcomes.append(run(other.submit(job, key=ACME))))
    process.start()
    assert stored.wait(5)
    answer = server.send()
    process.join()
    other.close()
    assert outcomes == [True]
    assert answer.status_code == 200, answer.text
