"""Reading the audit log: filters, pages that stay stable, totals and figures, and that no list scans the table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from apps.audit.models import AuditEntry
from apps.audit.queries import audit_entries, by_tenant, newest_first
from apps.audit.services import reading as audit
from apps.audit.services.reading import audit_stats, list_audit, read_cursor
from apps.audit.services.recording import record_audit
from clasper.core.db import atomic_batch
from clasper.core.tenancy import ALL_TENANTS, OneTenant

TRACE = "0194c8f0-7e1a-7000-8000-000000000001"


def log(now: datetime, count: int = 1, **entry: Any) -> None:
    with atomic_batch() as batch:
        for _ in range(count):
            record_audit(batch, **{"tenant_id": "acme", "event_type": "tool.call", "actor": "a:b", "now": now, **entry})


def test_the_list_is_filtered(store: None, now: datetime) -> None:
    log(now - timedelta(days=2), event_type="agent.start", trace_id=TRACE)
    log(now, event_type="tool.denied")
    log(now, event_type="tool.denied", tenant_id="globex", trace_id=TRACE)
    cases: list[tuple[dict[str, Any], int]] = [
        ({"tenants": ALL_TENANTS}, 3),
        ({"tenants": OneTenant("acme")}, 2),
        ({"tenants": OneTenant("nobody")}, 0),
        ({"tenants": OneTenant("acme"), "event_type": "tool.denied"}, 1),
        ({"tenants": OneTenant("acme"), "event_type": "tool_permission_denied"}, 1),
        ({"tenants": ALL_TENANTS, "event_type": "no.such"}, 0),
        ({"tenants": ALL_TENANTS, "trace_id": TRACE}, 2),
        ({"tenants": OneTenant("acme"), "trace_id": TRACE}, 1),
        ({"tenants": OneTenant("acme"), "start": now}, 1),
        ({"tenants": OneTenant("acme"), "end": now}, 2),
        ({"tenants": OneTenant("acme"), "end": now - timedelta(milliseconds=1)}, 1),
        ({"tenants": OneTenant("acme"), "start": now - timedelta(days=2), "end": now - timedelta(days=2)}, 1),
    ]
    for filters, expected in cases:
        page = list_audit(**filters)
        assert (len(page.entries), page.total, page.total_is_exact) == (expected, expected, True), filters


@pytest.mark.parametrize(
    "filters",
    [
        {"tenants": ALL_TENANTS},
        {"tenants": OneTenant("acme")},
        {"tenants": OneTenant("acme"), "event_type": "tool.call"},
    ],
    ids=str,
)
def test_cursor_pages_are_stable_while_entries_arrive(store: None, now: datetime, filters: dict[str, Any]) -> None:
    log(now, 7)
    log(now, 2, tenant_id="globex", event_type="agent.start")
    expected = [entry.id for entry in list_audit(**filters).entries]
    seen: list[int] = []
    cursor = None
    while True:
        page = list_audit(**filters, limit=2, before=cursor and read_cursor(cursor))
        seen += [entry.id for entry in page.entries]
        cursor = page.next_cursor
        if cursor is None:
            break
        log(now)
    assert seen == expected
    assert expected == sorted(expected, reverse=True)


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({"actor": "x"}, "by_actor"),
        ({"event_type": "agent.start"}, "by_type"),
        ({"trace_id": TRACE}, "by_trace"),
        ({"start": datetime(2026, 1, 1, tzinfo=UTC)}, "by_time"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_filter_over_all_tenants_walks_the_index_of_each(store: None, filters: dict[str, Any], index: str) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL scans a table that is empty")
    rows = by_tenant(audit_entries(tenants=ALL_TENANTS, **filters))
    for query in (rows, newest_first(rows, by_seq=False, few=True)[:101]):
        assert f"SEARCH audit_log USING INDEX audit_log_{index}" in query.explain().replace("COVERING ", "")


def test_frequent_entries_of_all_tenants_are_paged_in_windows(
    store: None, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "COUNTED_UP_TO", 3)
    monkeypatch.setattr(audit, "EXAMINED", 4)
    for number in range(5):
        log(now, 2, tenant_id=f"t{number % 2}", event_type="agent.start")
        log(now, 3, tenant_id="globex")
    expected = list(AuditEntry.objects.filter(event_type="agent.start").order_by("-id").values_list("id", flat=True))
    seen: list[int] = []
    sizes: list[int] = []
    before = None
    while True:
        page = list_audit(tenants=ALL_TENANTS, event_type="agent.start", before=before, limit=2)
        assert (page.total, page.total_is_exact) == (3, False)
        seen += [entry.id for entry in page.entries]
        sizes.append(len(page.entries))
        if page.next_cursor is None:
            break
        before = read_cursor(page.next_cursor)
    assert seen == expected
    assert min(sizes) < 2


def test_rare_entries_of_all_tenants_are_found_at_once(
    store: None, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "COUNTED_UP_TO", 3)
    monkeypatch.setattr(audit, "EXAMINED", 2)
    log(now, event_type="budget.set")
    log(now, 2, tenant_id="globex", event_type="budget.set")
    log(now, 9)
    page = list_audit(tenants=ALL_TENANTS, event_type="budget.set", limit=2)
    assert ([entry.seq for entry in page.entries], page.total, page.total_is_exact) == ([2, 1], 3, True)
    rest = list_audit(tenants=ALL_TENANTS, event_type="budget.set", before=read_cursor(str(page.next_cursor)))
    assert ([entry.tenant_id for entry in rest.entries], rest.next_cursor) == (["acme"], None)


def test_offset_pages(store: None, now: datetime) -> None:
    log(now, 5)
    page = list_audit(tenants=OneTenant("acme"), limit=2, offset=4)
    assert ([entry.seq for entry in page.entries], page.total, page.next_cursor) == ([1], 5, None)


@pytest.mark.parametrize("cursor", ["x", "YXVkaXQ6MQ==", "YXVkaXQ6LTE", "YXVkaXQ6MDE", "é", "a" * 64, "YXVkaXQ6"])
def test_a_forged_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        read_cursor(cursor)


def test_the_total_is_counted_only_so_far(store: None, now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "COUNTED_UP_TO", 3)
    log(now, 3)
    page = list_audit(tenants=OneTenant("acme"))
    assert (page.total, page.total_is_exact) == (3, True)
    log(now)
    page = list_audit(tenants=OneTenant("acme"))
    assert (page.total, page.total_is_exact) == (3, False)


def test_stats(store: None, now: datetime) -> None:
    assert audit_stats(tenants=OneTenant("acme"), now=now).oldest_entry is None
    log(now - timedelta(days=3), 2)
    log(now, event_type="agent.start")
    log(now, tenant_id="globex")
    stats = audit_stats(tenants=OneTenant("acme"), now=now)
    assert stats.entries_by_type == {"agent.start": 1, "tool.call": 2}
    assert (stats.total_entries, stats.entries_last_24h) == (3, 1)
    assert stats.oldest_entry == now - timedelta(days=3)
    assert audit_stats(tenants=ALL_TENANTS, now=now).total_entries == 4
