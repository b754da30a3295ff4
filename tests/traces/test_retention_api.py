"""Retention over HTTP: policies, enforcement, figures; every fault at once, and every tenant for itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from apps.traces.services.retention import demanding
from clasper.core.clock import parse_iso
from tests.traces.retention_runs import Run, left, texts
from tests.world import ACME, GLOBEX, Server, tenant_key

POLICY, ENFORCE, STATS = "/retention/policy", "/retention/enforce", "/retention/stats"


@pytest.fixture
def server(server: Server) -> Iterator[Server]:
    """The server, with no policy remembered from the test before, nor for the one after."""
    demanding.forget()
    yield server
    demanding.forget()


def set_policy(server: Server, **fields: Any) -> dict[str, Any]:
    response = server.post(POLICY, {"tenant_id": ACME, **fields})
    assert response.status_code == 200, response.text
    assert response.json()["status"] == "ok"
    policy: dict[str, Any] = response.json()["policy"]
    return policy


def enforced(server: Server, body: Any = None, **options: Any) -> dict[str, Any]:
    response = server.post(ENFORCE, body, **options)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert answer.pop("status") == "ok"
    return answer


# --- Policies ---------------------------------------------------------------------------------------------------------


def test_a_policy_is_answered_with_defaults_and_times(server: Server) -> None:
    made = set_policy(server, retention_days=30)
    times = made.pop("createdAt"), made.pop("updatedAt")
    assert made == {
        "tenantId": ACME,
        "retentionDays": 30,
        "samplingStrategy": "full",
        "storageMode": "full",
        "sampleRate": 0.1,
    }
    assert times[0] == times[1]
    assert parse_iso(times[0])


def test_a_change_keeps_what_it_does_not_name(server: Server) -> None:
    set_policy(server, retention_days=30, sampling_strategy="sampled", sample_rate=0.25, storage_mode="summary")
    changed = set_policy(server, retention_days=7)
    shown = server.get(POLICY, params={"tenant_id": ACME}).json()["policy"]
    assert shown == changed
    assert (shown["retentionDays"], shown["samplingStrategy"]) == (7, "sampled")
    assert (shown["sampleRate"], shown["storageMode"]) == (0.25, "summary")


def test_a_change_is_audited_by_its_caller(server: Server) -> None:
    set_policy(server, retention_days=30)
    (entry,) = server.audit(event_type="retention.policy")
    assert (entry["tenant_id"], entry["actor"]) == (ACME, "system:daemon")
    assert entry["details"]["after"]["retention_days"] == 30


def test_without_a_policy_404(server: Server) -> None:
    response = server.get(POLICY, params={"tenant_id": ACME})
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


FAULTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "no tenant": ({"tenant_id": None}, {"tenant_id"}),
    "blank tenant": ({"tenant_id": ""}, {"tenant_id"}),
    "zero days": ({"retention_days": 0}, {"retention_days"}),
    "too many days": ({"retention_days": 3651}, {"retention_days"}),
    "half a day": ({"retention_days": 1.5}, {"retention_days"}),
    "days as null": ({"retention_days": None}, {"retention_days"}),
    "days as true": ({"retention_days": True}, {"retention_days"}),
    "no such strategy": ({"sampling_strategy": "some"}, {"sampling_strategy"}),
    "strategy as a list": ({"sampling_strategy": ["full"]}, {"sampling_strategy"}),
    "rate above one": ({"sample_rate": 1.1}, {"sample_rate"}),
    "rate as nan": ({"sample_rate": "nan"}, {"sample_rate"}),
    "rate as true": ({"sample_rate": True}, {"sample_rate"}),
    "no such mode": ({"storage_mode": "none"}, {"storage_mode"}),
    "all at once": (
        {"retention_days": 0, "sampling_strategy": "x", "sample_rate": -1, "storage_mode": "x"},
        {"retention_days", "sampling_strategy", "sample_rate", "storage_mode"},
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_errors_are_reported_all_at_once_and_change_nothing(name: str, server: Server) -> None:
    fields, wanted = FAULTS[name]
    response = server.post(POLICY, {"tenant_id": ACME, **fields})
    assert response.status_code == 400, response.text
    assert response.json()["details"]["fieldErrors"].keys() == wanted
    assert server.get(STATS).json()["totalPolicies"] == 0


def test_the_question_for_a_policy_needs_a_tenant(server: Server) -> None:
    response = server.get(POLICY)
    assert response.status_code == 400
    assert response.json()["details"]["fieldErrors"].keys() == {"tenant_id"}


# --- Enforcement ------------------------------------------------------------------------------------------------------


def test_enforcement_reports_what_it_did(server: Server) -> None:
    Run(days=400).write()
    Run(days=400, labels={"baseline": "1"}).write()
    newest = server.send().json()["trace_id"]
    set_policy(server, retention_days=30, storage_mode="summary")
    result = enforced(server, {"tenant_id": ACME})["result"]
    assert {name: result[name] for name in ("tenantId", "tracesDeleted", "tracesStripped", "tracesProtected")} == {
        "tenantId": ACME,
        "tracesDeleted": 1,
        "tracesStripped": 1,
        "tracesProtected": 1,
    }
    assert result["dryRun"] is False
    assert parse_iso(result["cutoffDate"]) > parse_iso(result["oldestRemainingTrace"])
    assert result["durationMs"] >= result["longestTransactionMs"] > 0
    assert texts(newest) == {"input", "output"}
    (entry,) = server.audit(event_type="retention.enforce")
    assert (entry["actor"], entry["details"]["deleted"]) == ("system:daemon", 1)


def test_a_dry_run_only_counts(server: Server) -> None:
    Run(days=400).write()
    result = enforced(server, {"tenant_id": ACME, "dry_run": True})["result"]
    assert (result["tracesDeleted"], result["dryRun"]) == (1, True)
    assert len(left()) == 1


NO_TENANT: dict[str, dict[str, Any]] = {
    "no body": {},
    "empty object": {"json": {}},
    "null": {"json": {"tenant_id": None}},
}


@pytest.mark.parametrize("name", NO_TENANT)
def test_without_a_tenant_every_policy_is_enforced(name: str, server: Server) -> None:
    for tenant_id in (ACME, GLOBEX, "nobody"):
        Run(days=400, tenant_id=tenant_id).write()
    set_policy(server)
    set_policy(server, tenant_id=GLOBEX)
    response = server.request("POST", ENFORCE, **NO_TENANT[name])
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer.keys() == {"status", "results", "totalDeleted"}
    assert [each["tenantId"] for each in answer["results"]] == [ACME, GLOBEX]
    assert answer["totalDeleted"] == 2
    assert len(left("nobody")) == 1


def test_without_any_policy_there_is_nothing_to_enforce(server: Server) -> None:
    assert enforced(server) == {"results": [], "totalDeleted": 0}


FAULTY_ORDERS: list[Any] = [
    *([], "acme", 1, {"tenant_id": ""}, {"tenant_id": ["a"]}, {"dry_run": "perhaps"}),
    *({"tenant": ACME}, {"tenantId": ACME}, {"dry-run": True}, {"tenant_id": ACME, "force": False}),
]


@pytest.mark.parametrize("body", FAULTY_ORDERS, ids=str)
def test_an_invalid_order_deletes_nothing(body: Any, server: Server) -> None:
    Run(days=400).write()
    set_policy(server)
    assert server.post(ENFORCE, body).status_code == 400
    assert len(left()) == 1


def test_the_answers_own_spelling_is_understood(server: Server) -> None:
    Run(days=400).write()
    given = {"retentionDays": 30, "samplingStrategy": "sampled", "sampleRate": 0.5, "storageMode": "summary"}
    policy = server.post(POLICY, {"tenant_id": ACME, **given}).json()["policy"]
    assert {name: policy[name] for name in given} == given
    result = server.post(ENFORCE, {"tenant_id": ACME, "dryRun": True}).json()["result"]
    assert (result["tracesDeleted"], result["dryRun"]) == (1, True)
    assert len(left()) == 1


def test_a_name_that_is_no_field_of_a_policy_changes_nothing(server: Server) -> None:
    answer = server.post(POLICY, {"tenant_id": ACME, "days": 3, "storage_mode": "none"})
    assert answer.status_code == 400
    faults = answer.json()["details"]["fieldErrors"]
    assert faults["storage_mode"] == ["Must be one of full, summary, minimal."]
    assert faults["days"][0].startswith("Unknown field. Allowed: retention_days, sampling_strategy,")
    assert server.get(POLICY, params={"tenant_id": ACME}).status_code == 404


# --- Runs under a policy ----------------------------------------------------------------------------------------------


def test_a_run_that_is_not_kept_is_answered_whole_and_stored_without_texts(server: Server) -> None:
    set_policy(server, sampling_strategy="errors_only")
    answer = server.send("Please use tool orders:lookup {}")
    assert answer.status_code == 200
    assert answer.json()["response"]
    trace = server.trace(answer.json()["trace_id"])
    assert (trace["status"], trace["input"], trace["output"]) == ("success", None, None)
    assert trace["total_tokens"] > 0
    assert [step["type"] for step in trace["steps"]] == ["llm_call", "tool_call", "llm_call"]
    assert all(step["output"] is None for step in trace["steps"])


def test_numbers_stay_true_when_runs_are_gone(server: Server) -> None:
    server.send()
    before = server.get("/traces/stats").json(), server.get("/usage").json()
    set_policy(server, sampling_strategy="errors_only")
    assert enforced(server, {"tenant_id": ACME})["result"]["tracesDeleted"] == 1
    assert (server.get("/traces/stats").json(), server.get("/usage").json()) == before
    assert server.get("/traces").json()["total"] == 0
    assert server.get("/audit/verify", params={"tenant_id": ACME}).json()["valid"] is True


# --- Tenants ----------------------------------------------------------------------------------------------------------


def test_a_tenants_key_implies_its_tenant(server: Server) -> None:
    key = tenant_key()
    Run(days=400).write()
    Run(days=400, tenant_id=GLOBEX).write()
    assert server.post(POLICY, {"retention_days": 30}, key=key).json()["policy"]["tenantId"] == ACME
    assert server.get(POLICY, key=key).json()["policy"]["retentionDays"] == 30
    assert enforced(server, key=key)["result"]["tracesDeleted"] == 1
    assert len(left(GLOBEX)) == 1
    set_policy(server, tenant_id=GLOBEX, retention_days=60)
    own = server.get(STATS, key=key).json()
    assert (own["totalPolicies"], own["avgRetentionDays"]) == (1, 30)
    every = server.get(STATS).json()
    assert (every["totalPolicies"], every["avgRetentionDays"]) == (2, 45)
    assert every["tenantsByStrategy"] == {"full": 2, "errors_only": 0, "sampled": 0}


FOREIGN = {
    "policy": ("GET", POLICY),
    "policy set": ("POST", POLICY),
    "enforcement": ("POST", ENFORCE),
    "figures": ("GET", STATS),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_another_tenants_retention_is_out_of_reach(name: str, server: Server) -> None:
    method, path = FOREIGN[name]
    set_policy(server)
    Run(days=400).write()
    naming: dict[str, Any] = {"json" if method == "POST" else "params": {"tenant_id": ACME}}
    response = server.request(method, path, key=tenant_key(GLOBEX), **naming)
    assert (response.status_code, response.json()["code"]) == (403, "permission_denied")
    assert len(server.audit(event_type="permission.denied", tenant_id=GLOBEX)) == 1
    assert server.get(POLICY, params={"tenant_id": ACME}).json()["policy"]["retentionDays"] == 90
    assert len(left()) == 1


def test_reading_is_not_enough_to_delete(server: Server) -> None:
    reader = tenant_key(scopes="governance:read")
    assert server.get(STATS, key=reader).status_code == 200
    for path in (POLICY, ENFORCE):
        assert server.post(path, {}, key=reader).status_code == 403
