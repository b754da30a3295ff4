"""Services fail closed: only ALL_TENANTS reaches every tenant, never a tenant that is foreign, empty or forgotten."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from apps.agents.delivery.idempotency import stored_result
from apps.agents.services.replay import describe_replay
from apps.audit.services.export import plan_export
from apps.audit.services.reading import audit_stats, list_audit
from apps.governance.services.usage import record_usage, usage_totals
from apps.identity.services.keys import create_api_key, list_api_keys, revoke_api_key
from apps.traces.domain.filters import Filters
from apps.traces.services.annotations import annotate_trace, list_annotations
from apps.traces.services.diffing import compare_traces
from apps.traces.services.labels import label_trace
from apps.traces.services.reading import get_trace, list_traces, read_trace
from apps.traces.services.replaying import replay_source
from apps.traces.services.retention import retention_stats, set_policy
from apps.traces.services.rollups import rebuild
from apps.traces.services.stats import trace_stats
from clasper.core.db import atomic_batch
from clasper.core.errors import NotFound
from clasper.core.money import NanoUSD
from clasper.core.tenancy import ALL_TENANTS, OneTenant
from clasper.core.usage import Usage
from tests.traces.stored_run import START, StoredRun
from tests.world import ACME, GLOBEX

ROOT = Path(__file__).resolve().parents[2]

WHO = {"actor": "user:ada", "now": START}

OF_A_TRACE: dict[str, Callable[..., Any]] = {
    "get_trace": get_trace,
    "read_trace": lambda **about: read_trace(**about, **WHO),
    "annotate_trace": lambda **about: annotate_trace(**about, key="note", value="x", **WHO),
    "list_annotations": list_annotations,
    "label_trace": lambda **about: label_trace(**about, changes={"team": "blue"}, **WHO),
    "compare_traces": lambda tenants, trace_id: compare_traces(tenants=tenants, base_id=trace_id, compare_id=trace_id),
    "replay_source": replay_source,
    "describe_replay": lambda **about: describe_replay(**about, **WHO),
}

COUNTS: dict[str, Callable[..., int]] = {
    "list_audit": lambda tenants: list_audit(tenants=tenants, event_type="key.create").total,
    "audit_stats": lambda tenants: audit_stats(tenants=tenants, now=START).entries_by_type.get("key.create", 0),
    "list_api_keys": lambda tenants: len(list_api_keys(tenants=tenants)),
    "list_traces": lambda tenants: list_traces(filters=Filters(tenants=tenants), limit=10).total,
    "list_traces by label": lambda tenants: list_traces(filters=Filters(tenants=tenants, label="team"), limit=9).total,
    "list_traces by text": lambda tenants: list_traces(filters=Filters(tenants=tenants, text="Hello"), limit=9).total,
    "list_traces by link": lambda tenants: list_traces(filters=Filters(tenants=tenants, task_id="t"), limit=9).total,
    "trace_stats": lambda tenants: trace_stats(tenants=tenants).total_traces,
    "trace_stats by day": lambda tenants: sum(
        group.total_traces for group in trace_stats(tenants=tenants, group_by=(True, "")).groups or ()
    ),
    "retention_stats": lambda tenants: retention_stats(tenants=tenants).policies,
    "usage_totals": lambda tenants: usage_totals(tenants=tenants, since=START, now=START).requests,
    "rebuild": lambda tenants: sum(
        done.runs
        for done in rebuild(tenants=tenants, now=START + timedelta(hours=1), progress=lambda *_: None).values()
    ),
}


@pytest.fixture
def trace_id(store: None) -> str:
    return StoredRun(labels={"team": "red"}, task_id="t").write()


@pytest.fixture
def two_tenants(trace_id: str) -> None:
    StoredRun(tenant_id=GLOBEX, labels={"team": "red"}, task_id="t").write()
    for tenant_id in (ACME, GLOBEX):
        create_api_key(tenant_id=tenant_id, name="", scopes=["traces:read"], **WHO)
        set_policy(tenant_id=tenant_id, values={"retention_days": 30}, **WHO)
        with atomic_batch() as batch:
            record_usage(batch, tenant_id=tenant_id, now=START, usage=Usage(), cost=NanoUSD(0))


@pytest.mark.parametrize("name", OF_A_TRACE)
def test_a_trace_is_found_only_in_scope(trace_id: str, name: str) -> None:
    service = OF_A_TRACE[name]
    for foreign in (GLOBEX, ""):
        with pytest.raises(NotFound):
            service(tenants=OneTenant(foreign), trace_id=trace_id)
    with pytest.raises(AttributeError):
        service(tenants=None, trace_id=trace_id)
    for scope in (OneTenant(ACME), ALL_TENANTS):
        service(tenants=scope, trace_id=trace_id)


@pytest.mark.parametrize("name", COUNTS)
def test_what_is_counted_is_in_scope(two_tenants: None, name: str) -> None:
    count = COUNTS[name]
    scopes = (OneTenant(ACME), OneTenant("nobody"), OneTenant(""), ALL_TENANTS)
    assert [count(scope) for scope in scopes] == [1, 0, 0, 2]
    with pytest.raises(AttributeError):
        count(None)


def test_a_foreign_key_is_not_revoked(store: None) -> None:
    key = create_api_key(tenant_id=ACME, name="", scopes=["traces:read"], **WHO)
    for foreign in (GLOBEX, ""):
        with pytest.raises(NotFound):
            revoke_api_key(key_id=key.id, tenants=OneTenant(foreign), **WHO)
    with pytest.raises(AttributeError):
        revoke_api_key(key_id=key.id, tenants=None, **WHO)  # type: ignore[arg-type]
    assert revoke_api_key(key_id=key.id, tenants=ALL_TENANTS, **WHO).revoked_at == START


def test_an_export_of_a_foreign_chain_is_not_begun(two_tenants: None) -> None:
    for foreign in ("nobody", ""):
        with pytest.raises(NotFound):
            plan_export(tenants=OneTenant(foreign), format_name="ndjson", **WHO)
    with pytest.raises(AttributeError):
        plan_export(tenants=None, format_name="ndjson", **WHO)  # type: ignore[arg-type]
    assert plan_export(tenants=OneTenant(ACME), format_name="ndjson", **WHO).tenants == [ACME]
    assert plan_export(tenants=ALL_TENANTS, format_name="ndjson", **WHO).tenants == [ACME, GLOBEX]


def test_a_forgotten_tenant_finds_no_stored_result(store: None) -> None:
    with pytest.raises(AttributeError):
        stored_result(tenants=None, key="k", fingerprint="f", now=START)  # type: ignore[arg-type]


def optional_tenants() -> Iterator[str]:
    for path in [*(ROOT / "apps").rglob("*.py"), *(ROOT / "clasper").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
                name = node.arg if isinstance(node, ast.arg) else ast.unparse(node.target)
                if name == "tenant_id" and "None" in ast.unparse(node.annotation):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}"


# Bodies of requests may leave the tenant out; `resolve_tenant` says what that means.
BODIES = ("apps/agents/domain/",)


def test_no_service_takes_a_tenant_that_may_be_none() -> None:
    assert [place for place in optional_tenants() if not place.startswith(BODIES)] == []
