"""The invented entries that verifying is measured with."""

from __future__ import annotations

from datetime import datetime

from apps.audit.services.reading import audit_stats, list_audit, verify_chain
from benchmarks.audit_entries import BATCH, write_entries
from clasper.core.tenancy import OneTenant
from tests.world import ACME


def test_they_are_a_chain_that_ends_now(store: None, now: datetime) -> None:
    write_entries(tenant_id=ACME, count=BATCH + 10, end=now)
    report = verify_chain(tenant_id=ACME)
    assert (report.valid, report.checked) == (True, BATCH + 10)
    assert list_audit(tenants=OneTenant(ACME), limit=1).entries[0].timestamp == now
    kinds = audit_stats(tenants=OneTenant(ACME), now=now).entries_by_type
    assert set(kinds) == {"agent.start", "tool.call", "agent.complete"}
