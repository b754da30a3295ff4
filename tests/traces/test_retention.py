"""Retention's policies on the real database, and what settling a run stores of it."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection

from apps.traces.domain.record import Status
from apps.traces.domain.retention import PROTECTING_KEYS
from apps.traces.models import Trace
from apps.traces.services.retention import get_policy, retention_stats, set_policy
from clasper.core.errors import InvalidRequest, NotFound
from clasper.core.tenancy import ALL_TENANTS, OneTenant
from tests.traces.retention_deeds import ALL, DAY, events, policy
from tests.traces.retention_runs import NOW, Run, ids_where, rows_of, texts
from tests.world import ACME, GLOBEX

pytestmark = pytest.mark.usefixtures("fresh")


# --- Policies ---------------------------------------------------------------------------------------------------------


def test_a_new_policy_takes_defaults_and_a_change_keeps_the_rest() -> None:
    policy(retention_days=30)
    policy(sampling_strategy="sampled", sample_rate=0.5)
    found = get_policy(tenant_id=ACME)
    assert (found.retention_days, found.sampling_strategy) == (30, "sampled")
    assert (found.sample_rate, found.storage_mode) == (0.5, "full")


def test_a_change_is_dated_and_audited_with_before_and_after() -> None:
    policy(retention_days=30)
    set_policy(tenant_id=ACME, actor="user:test", now=NOW + DAY, values={"storage_mode": "minimal"})
    found = get_policy(tenant_id=ACME)
    assert (found.created_at, found.updated_at) == (NOW, NOW + DAY)
    first, second = events("retention.policy")
    assert first["before"] is None
    assert second["before"] == first["after"]
    assert second["after"] == {**first["after"], "storage_mode": "minimal"}


def test_an_invalid_change_changes_nothing() -> None:
    policy(retention_days=30)
    with pytest.raises(InvalidRequest) as refused:
        policy(retention_days=0, storage_mode="none")
    assert refused.value.details["fieldErrors"].keys() == {"retention_days", "storage_mode"}
    assert get_policy(tenant_id=ACME).retention_days == 30
    assert len(events("retention.policy")) == 1


def test_without_a_policy_there_is_none_to_read() -> None:
    policy(GLOBEX)
    with pytest.raises(NotFound):
        get_policy(tenant_id=ACME)


def test_figures_count_by_strategy() -> None:
    none = retention_stats(tenants=ALL_TENANTS)
    assert (none.policies, none.average_days) == (0, 0)
    policy(retention_days=30)
    policy(GLOBEX, retention_days=61, sampling_strategy="sampled")
    every, own = retention_stats(tenants=ALL_TENANTS), retention_stats(tenants=OneTenant(GLOBEX))
    assert (every.policies, every.average_days) == (2, 46)
    assert every.by_strategy == {"full": 1, "errors_only": 0, "sampled": 1}
    assert (own.policies, own.average_days, own.by_strategy["full"]) == (1, 61, 0)


# --- What settling stores ---------------------------------------------------------------------------------------------

SETTLED: dict[str, tuple[dict[str, Any], Status, set[str], str]] = {
    "no policy": ({}, "success", ALL, "full"),
    "everything": ({"retention_days": 30}, "success", ALL, "full"),
    "summary": ({"storage_mode": "summary"}, "success", {"input", "output"}, "summary"),
    "summary of an error": ({"storage_mode": "summary"}, "error", {"input", "error"}, "summary"),
    "minimal": ({"storage_mode": "minimal"}, "success", set(), "minimal"),
    "minimal error": ({"storage_mode": "minimal"}, "error", set(), "minimal"),
    "errors only": ({"sampling_strategy": "errors_only"}, "success", set(), "minimal"),
    "errors only, error": (
        {"sampling_strategy": "errors_only"},
        "error",
        {"input", "error", "step 1", "step 2"},
        "full",
    ),
    "sample of all": ({"sampling_strategy": "sampled", "sample_rate": 1}, "success", ALL, "full"),
    "sample of none": ({"sampling_strategy": "sampled", "sample_rate": 0}, "success", set(), "minimal"),
    "sample of all, summary": (
        {"sampling_strategy": "sampled", "sample_rate": 1, "storage_mode": "summary"},
        "success",
        {"input", "output"},
        "summary",
    ),
}


@pytest.mark.parametrize("name", SETTLED)
def test_what_is_stored_of_a_run(name: str) -> None:
    values, status, stored, mode = SETTLED[name]
    if values:
        policy(**values)
    trace_id = Run(status=status).write()
    assert texts(trace_id) == stored
    trace = Trace.objects.get(id=trace_id)
    assert (trace.storage_mode, trace.status, trace.input_tokens) == (mode, status, 100)
    assert trace.error_code == ("provider_error" if status == "error" else "")
    assert rows_of(trace_id)["TraceStep"] == 2, "facts stay"


def test_the_sample_decides_run_by_run() -> None:
    policy(sampling_strategy="sampled", sample_rate=0.1)
    kept, dropped = next(ids_where(sampled=True)), next(ids_where(sampled=False))
    Run(id=kept).write()
    Run(id=dropped).write()
    assert (texts(kept), texts(dropped)) == (ALL, set())


@pytest.mark.parametrize("key", PROTECTING_KEYS)
def test_a_run_that_is_labelled_from_the_start_is_stored_whole(key: str) -> None:
    policy(storage_mode="minimal")
    assert texts(Run(labels={key: "yes"}).write()) == ALL


def test_a_policy_holds_for_its_tenant_only() -> None:
    policy(storage_mode="minimal")
    assert texts(Run(tenant_id=GLOBEX).write()) == ALL


def test_a_policy_that_another_process_set_holds_after_seconds() -> None:
    Run().write()
    policy()
    Run().write()  # now remembered
    with connection.cursor() as cursor:
        cursor.execute("UPDATE retention_policies SET storage_mode = 'minimal'")
    assert texts(Run().write()) == ALL
    assert texts(Run(days=-4.9 / 86_400).write()) == ALL
    assert texts(Run(days=-5.1 / 86_400).write()) == set()
