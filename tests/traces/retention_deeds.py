"""Policies and their enforcement as the tests of retention set and ask for them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from apps.audit.services.reading import list_audit
from apps.traces.domain.retention import PolicyChange
from apps.traces.services.enforcement import Enforcement, enforce
from apps.traces.services.retention import set_policy
from clasper.core.tenancy import OneTenant
from clasper.core.validation import read
from tests.traces.retention_runs import NOW
from tests.world import ACME

ALL = {"input", "output", "step 1", "step 2"}
DAY = timedelta(days=1)


def policy(tenant_id: str = ACME, **values: Any) -> None:
    set_policy(tenant_id=tenant_id, actor="user:test", now=NOW, values=read(PolicyChange, values).values)


def enforced(tenant_id: str = ACME, **options: Any) -> Enforcement:
    return enforce(tenant_id=tenant_id, actor="user:test", now=NOW, **options)


def events(event_type: str, tenant_id: str = ACME) -> list[dict[str, Any]]:
    entries = list_audit(tenants=OneTenant(tenant_id), event_type=event_type).entries
    return [each.details for each in reversed(entries)]
