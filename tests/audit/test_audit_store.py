"""The stored chain: gapless under concurrency, refused changes, tampering found, lists and figures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.db import DatabaseError, connection, connections, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.audit.domain.chain import GENESIS
from apps.audit.models import AuditEntry, AuditHead
from apps.audit.services.reading import list_audit, verify_all, verify_chain
from apps.audit.services.recording import record_audit
from clasper.core.clock import iso
from clasper.core.db import Batch, GroupWriter, atomic_batch
from clasper.core.tables import AppendOnlyError, AppendOnlyTrigger
from clasper.core.tenancy import OneTenant
from tests.audit.chain import entry_hash

TRACE = "0194c8f0-7e1a-7000-8000-000000000001"
LENGTH = 6


def log(now: datetime, count: int = 1, **entry: Any) -> None:
    with atomic_batch() as batch:
        for _ in range(count):
            record_audit(batch, **{"tenant_id": "acme", "event_type": "tool.call", "actor": "a:b", "now": now, **entry})


# --- Appending ------------------------------------------------------------------------------------------------------


def test_an_entry_is_stored_with_the_hash_of_what_is_shown(store: None, now: datetime) -> None:
    log(now + timedelta(microseconds=1999), details={"b": 1.5, "a": "é"}, trace_id=TRACE, actor="agent:jarvis")
    (entry,) = list_audit(tenants=OneTenant("acme")).entries
    assert entry.timestamp == now + timedelta(milliseconds=1)
    assert (entry.seq, entry.prev_hash, entry.details) == (1, GENESIS, {"a": "é", "b": 1.5})
    assert entry.hash == entry_hash(
        tenant_id="acme",
        seq=1,
        timestamp=iso(entry.timestamp),
        event_type="tool.call",
        trace_id=TRACE,
        actor="agent:jarvis",
        details=entry.details,
        prev_hash=GENESIS,
    )
    head = AuditHead.objects.get(tenant_id="acme")
    assert (head.seq, head.hash) == (1, entry.hash)


def test_each_tenant_has_a_chain_of_its_own(store: None, now: datetime) -> None:
    for tenant_id in ("globex", "acme", "globex", ""):
        log(now, tenant_id=tenant_id)
    assert sorted(AuditEntry.objects.values_list("tenant_id", "seq")) == [
        ("", 1),
        ("acme", 1),
        ("globex", 1),
        ("globex", 2),
    ]
    reports = verify_all()
    assert list(reports) == ["", "acme", "globex"]
    assert all(report.valid for report in reports.values())


@pytest.mark.parametrize(
    "wrong", [{"event_type": "agent.unheard"}, {"details": {"n": float("nan")}}, {"actor": "\ud800"}], ids=str
)
def test_what_cannot_be_recorded_is_refused_at_once(store: None, now: datetime, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        log(now, **wrong)
    assert not AuditEntry.objects.exists()


def test_details_are_redacted(store: None, now: datetime) -> None:
    log(now, details={"text": "write to jane.doe@example.com"})
    assert "jane.doe@example.com" not in AuditEntry.objects.get().details


def test_a_rolled_back_effect_leaves_no_entry_and_no_gap(store: None, now: datetime) -> None:
    log(now)
    with suppress(RuntimeError), atomic_batch() as batch:
        record_audit(batch, tenant_id="acme", event_type="tool.call", actor="a:b", now=now)
        raise RuntimeError
    log(now)
    assert list(AuditEntry.objects.order_by("id").values_list("seq", flat=True)) == [1, 2]


def both(batch: Batch, *, first: str, second: str, now: datetime) -> None:
    for tenant_id in (first, second):
        record_audit(batch, tenant_id=tenant_id, event_type="tool.call", actor="a:b", now=now, details={"x": 1})


def test_concurrent_writers_leave_no_gap_and_no_fork(store: None, now: datetime) -> None:
    """Two processes' worth of group writers and two of plain transactions, each touching both tenants."""
    there = partial(both, first="acme", second="globex", now=now)
    back = partial(both, first="globex", second="acme", now=now)

    def by_group_writer() -> None:
        writer = GroupWriter()

        async def all_at_once() -> None:
            await asyncio.gather(*(writer.submit((there, back)[n % 2], key=("acme", "")[n % 2]) for n in range(150)))

        asyncio.run(all_at_once())
        writer.close()

    def by_transactions() -> None:
        try:
            for n in range(25):
                with atomic_batch() as batch:
                    (there, back)[n % 2](batch)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for work in (by_group_writer, by_transactions) * 2]:
            done.result()
    for tenant_id in ("acme", "globex"):
        report = verify_chain(tenant_id=tenant_id)
        assert (report.valid, report.checked, report.reason) == (True, 350, "")


# --- Changing -------------------------------------------------------------------------------------------------------

STATEMENTS = ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log", "UPDATE audit_log SET seq = seq + 10"]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_the_database_refuses_changes(store: None, now: datetime, statement: str) -> None:
    log(now)
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert verify_chain(tenant_id="acme").valid


def test_postgresql_refuses_truncation_and_sqlite_replacement(store: None, now: datetime) -> None:
    log(now)
    columns = "id, tenant_id, seq, timestamp, event_type, trace_id, actor, details, prev_hash, hash"
    statement = {
        "postgresql": "TRUNCATE audit_log",
        "sqlite": f"REPLACE INTO audit_log ({columns}) SELECT {columns.replace('actor', 'hash')} FROM audit_log",
    }[connection.vendor]
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)


CHANGES: list[Callable[[], object]] = [
    lambda: AuditEntry.objects.update(actor="x"),
    lambda: AuditEntry.objects.all().delete(),
    lambda: AuditEntry.objects.get().delete(),
    lambda: AuditEntry.objects.get().save(),
    lambda: AuditEntry.objects.bulk_update(list(AuditEntry.objects.all()), ["actor"]),
    lambda: AuditEntry.objects.update_or_create(id=1, defaults={"actor": "x"}),
]


@pytest.mark.parametrize("change", CHANGES)
def test_the_models_refuse_changes(store: None, now: datetime, change: Callable[[], object]) -> None:
    log(now)
    with pytest.raises(AppendOnlyError):
        change()


Statements = list[tuple[str, tuple[Any, ...]]]


def edit(column: str, value: Any, seq: int) -> Statements:
    return [(f"UPDATE audit_log SET {column} = %s WHERE tenant_id = 'acme' AND seq = %s", (value, seq))]


def delete(seqs: set[int]) -> Statements:
    return [("DELETE FROM audit_log WHERE tenant_id = 'acme' AND seq = %s", (seq,)) for seq in seqs]


def move(old: int, new: int) -> Statements:
    return [("UPDATE audit_log SET seq = %s WHERE tenant_id = 'acme' AND seq = %s", (new, old))]


def insert(seq: int) -> Statements:
    """A forged entry at `seq`; what stood there and after makes room, from the end because seq is unique."""
    room = [statement for old in range(LENGTH, seq - 1, -1) for statement in move(old, old + 1)]
    forged = (
        "INSERT INTO audit_log (tenant_id, seq, timestamp, event_type, trace_id, actor, details, prev_hash, hash)"
        " SELECT tenant_id, %s, timestamp, event_type, trace_id, 'agent:forger', details, prev_hash, hash"
        " FROM audit_log WHERE tenant_id = 'acme' ORDER BY seq LIMIT 1"
    )
    return [*room, (forged, (seq,))]


def swap(first: int, second: int) -> Statements:
    return [*move(first, -1), *move(second, first), *move(-1, second)]


seqs = st.integers(1, LENGTH)
edits = st.sampled_from(
    [
        ("timestamp", "2020-01-01 00:00:00"),
        ("event_type", "tool.denied"),
        ("trace_id", TRACE),
        ("actor", "agent:other"),
        ("details", '{"n":0}'),
        ("details", '{ "n":1}'),
        ("details", "not JSON"),
        ("prev_hash", "f" * 64),
        ("hash", "f" * 64),
    ]
)
tampering: st.SearchStrategy[tuple[Statements, int]] = st.one_of(
    st.tuples(edits, seqs).map(lambda drawn: (edit(*drawn[0], drawn[1]), drawn[1])),
    st.sets(seqs, min_size=1).map(lambda gone: (delete(gone), min(gone))),
    st.integers(1, LENGTH + 1).map(lambda seq: (insert(seq), seq)),
    st.sets(seqs, min_size=2, max_size=2).map(lambda pair: (swap(min(pair), max(pair)), min(pair))),
)


def run(statements: Statements) -> None:
    """Does what a thief with full database rights does: lifts the triggers and rewrites rows."""
    with connection.cursor() as cursor:
        for statement in AppendOnlyTrigger("audit_log").drop(connection.vendor):
            cursor.execute(statement)
        for sql, params in statements:
            cursor.execute(sql, params)


@given(tampering)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tampering_with_raw_rows_is_found_where_it_begins(
    store: None, now: datetime, tampered: tuple[Statements, int]
) -> None:
    statements, first_bad_seq = tampered
    if not AuditEntry.objects.exists():
        for n in range(LENGTH):
            log(now, details={"n": n + 1})
            log(now, tenant_id="globex")
    with transaction.atomic():
        run(statements)
        report = verify_chain(tenant_id="acme")
        assert verify_chain(tenant_id="globex").valid
        transaction.set_rollback(True)
    assert (report.valid, report.first_bad_seq) == (False, first_bad_seq), report.reason
    assert verify_chain(tenant_id="acme").valid


HEADS: list[tuple[str, int]] = [
    ("UPDATE audit_heads SET seq = seq + 1", LENGTH + 1),
    ("UPDATE audit_heads SET seq = seq - 2", LENGTH - 2),
    ("UPDATE audit_heads SET hash = prev FROM (SELECT prev_hash AS prev FROM audit_log LIMIT 1) AS e", LENGTH),
    ("DELETE FROM audit_heads", 1),
]


@pytest.mark.parametrize(("statement", "first_bad_seq"), HEADS)
def test_a_head_that_disagrees_is_found(store: None, now: datetime, statement: str, first_bad_seq: int) -> None:
    log(now, LENGTH)
    with connection.cursor() as cursor:
        cursor.execute(statement)
    assert verify_chain(tenant_id="acme").first_bad_seq == first_bad_seq
    assert verify_all()["acme"].first_bad_seq == first_bad_seq


def test_after_a_lost_head_nothing_is_appended_over_the_old_chain(store: None, now: datetime) -> None:
    """Healing silently would hide a cut tail."""
    log(now, 2)
    AuditHead.objects.all().delete()
    with pytest.raises(DatabaseError):
        log(now)


def test_an_unreadable_timestamp_is_found(store: None, now: datetime) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("only SQLite stores any text in a timestamp column")
    log(now, 3)
    with transaction.atomic():
        run(edit("timestamp", "2026-99-99 00:00:00", 2))
        assert verify_chain(tenant_id="acme").first_bad_seq == 2
        transaction.set_rollback(True)


def test_stored_details_are_canonical(store: None, now: datetime) -> None:
    log(now, details={"b": 1, "a": [True, None]})
    text = AuditEntry.objects.get().details
    assert text == '{"a":[true,null],"b":1}'
    assert json.loads(text) == {"a": [True, None], "b": 1}
