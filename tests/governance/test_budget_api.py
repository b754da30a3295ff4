"""The doors to budgets and usage: the seed's shapes, the older spellings, every fault at once, tenants apart."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import path

from apps.audit.models import AuditEntry
from apps.governance.api.budgets import BudgetCheckView, BudgetView, UsageView
from apps.governance.models import Budget
from apps.governance.services.reservations import settle_call
from apps.governance.services.usage import record_usage
from apps.identity.services.keys import create_api_key
from clasper.core.clock import utc_now
from clasper.core.db import atomic_batch
from clasper.core.money import NanoUSD, from_usd
from clasper.core.usage import Usage

pytestmark = pytest.mark.urls(__name__)

urlpatterns = [
    path("budget", BudgetView.as_view()),
    path("budget/check", BudgetCheckView.as_view()),
    path("usage", UsageView.as_view()),
]

DAEMON_KEY = "daemon-key-of-the-tests"
SEED_BUDGET = {"tenant_id": "acme", "limit": 100.0, "period": "monthly", "soft_limit": 75.0, "hard_limit": 100.0}


class Caller:
    """Somebody with a credential; `json` of the answers is the body."""

    def __init__(self, **headers: str) -> None:
        self._client = Client(headers=headers)

    def get(self, route: str, **query: Any) -> Any:
        return self._client.get(route, query)

    def post(self, route: str, body: Any) -> Any:
        raw = body if isinstance(body, str) else json.dumps(body)
        return self._client.post(route, raw, content_type="application/json")


@pytest.fixture
def platform(store: None, settings: Any) -> Caller:
    settings.AGENT_DAEMON_API_KEY = DAEMON_KEY
    settings.MIDDLEWARE = []
    return Caller(**{"X-Agent-Daemon-Key": DAEMON_KEY})


def key_of(tenant_id: str, *scopes: str) -> Caller:
    made = create_api_key(
        tenant_id=tenant_id, name="test", scopes=scopes, actor="test:setup", now=utc_now() - timedelta(minutes=1)
    )
    return Caller(Authorization=f"Bearer {made.key}")


@pytest.fixture
def acme(platform: Caller) -> Caller:
    return key_of("acme", "governance:read", "governance:write")


def spend(amount: str, tenant_id: str = "acme") -> None:
    now = utc_now()
    cost = from_usd(amount)
    with atomic_batch() as batch:
        settle_call(batch, tenant_id=tenant_id, trace_id="r", cost=cost, now=now, actor="agent:a", keep_hold=False)
        record_usage(batch, tenant_id=tenant_id, now=now, usage=Usage(10, 20, 30, 40), cost=cost)


def faults(answer: Any) -> set[str]:
    body = answer.json()
    assert answer.status_code == 400
    assert body["code"] == "invalid_request"
    return set(body["details"]["fieldErrors"])


def same_keys(example: dict[str, Any], answer: dict[str, Any]) -> None:
    for key, value in example.items():
        assert key in answer, key
        if isinstance(value, dict) and "$any" not in value:
            same_keys(value, answer[key])
        elif not isinstance(value, dict):
            assert type(answer[key]) is type(value), key


SEED_ANSWER = {
    "tenant_id": "tenant-123",
    "budget": {
        "limit": 100.0,
        "spent": 42.5,
        "remaining": 57.5,
        "period": "monthly",
        "period_start": "2026-02-01T00:00:00.000Z",
        "period_end": "2026-02-28T23:59:59.999Z",
    },
    "alerts": {"soft_limit": 75.0, "hard_limit": 100.0},
}
SEED_ALLOWED = {"allowed": True, "remaining_after": 52.5, "warnings": []}
SEED_REFUSED = {"allowed": False, "remaining": 2.5, "requested": 5.0, "error": "Exceeds hard limit"}


def test_the_seeds_story(platform: Caller) -> None:
    answer = platform.post("/budget", SEED_BUDGET)
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    spend("42.5")
    body = platform.get("/budget", tenant_id="acme").json()
    same_keys(SEED_ANSWER, body)
    same_keys(body, answer.json())
    assert (body["budget"]["spent"], body["budget"]["remaining"], body["budget"]["reserved"]) == (42.5, 57.5, 0)
    assert body["alerts"] == {"soft_limit": 75.0, "hard_limit": 100.0}
    assert body["budget"]["period_start"].endswith("-01T00:00:00.000Z")
    assert body["budget"]["period_end"].endswith("T23:59:59.999Z")
    check = {"tenant_id": "acme", "amount": 5.0}
    assert platform.post("/budget/check", check).json() == SEED_ALLOWED
    spend("55")
    assert platform.post("/budget/check", check).json() == SEED_REFUSED


@pytest.mark.parametrize(
    ("body", "soft_limit", "hard_limit", "period"),
    [
        ({"limit": 10}, 8.0, 10.0, "monthly"),
        ({"limit": "10.5"}, 8.4, 10.5, "monthly"),
        ({"budget_usd": 10, "hard_limit": True}, 8.0, 10.0, "monthly"),
        ({"budget_usd": 10, "hard_limit": False, "alert_threshold": 0.5}, 5.0, None, "monthly"),
        ({"limit": 10, "hard_limit": None, "period": "weekly"}, 8.0, None, "weekly"),
        ({"limit": 10, "hard_limit": 5, "alert_threshold": 0.1, "period": "daily"}, 0.5, 5.0, "daily"),
        ({"limit": 10, "soft_limit": None}, 8.0, 10.0, "monthly"),
        ({"limit": 0.30000000000000004, "soft_limit": 0.1}, 0.1, 0.3, "monthly"),
        ({"limit": 10, "soft_limit": 10, "allow_unpriced": None}, 10.0, 10.0, "monthly"),
    ],
)
def test_defaults_and_older_spellings(
    acme: Caller, body: dict[str, Any], soft_limit: float, hard_limit: float | None, period: str
) -> None:
    answer = acme.post("/budget", body).json()
    assert answer["tenant_id"] == "acme"
    assert answer["alerts"] == {"soft_limit": soft_limit, "hard_limit": hard_limit}
    assert answer["budget"]["period"] == period
    assert acme.get("/budget").json()["alerts"] == answer["alerts"]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"tenant_id", "limit"}),
        ({"tenant_id": "acme", "limit": 0}, {"limit"}),
        ({"tenant_id": "acme", "limit": -1, "soft_limit": -1, "hard_limit": 0}, {"limit", "soft_limit", "hard_limit"}),
        ({"tenant_id": "acme", "limit": "NaN", "hard_limit": "Infinity"}, {"limit", "hard_limit"}),
        ({"tenant_id": "acme", "limit": 9_000_000_001, "hard_limit": "1e999999"}, {"limit", "hard_limit"}),
        ({"tenant_id": "acme", "limit": 1e-12, "soft_limit": "1e-999999999"}, {"limit", "soft_limit"}),
        (
            {"tenant_id": "acme", "limit": True, "period": "hourly", "alert_threshold": True},
            {"limit", "period", "alert_threshold"},
        ),
        (
            {"tenant_id": "acme", "limit": "x", "period": None, "soft_limit": 9, "hard_limit": 5},
            {"limit", "period", "soft_limit"},
        ),
        ({"tenant_id": "acme", "limit": 10, "soft_limit": 11}, {"soft_limit"}),
        ({"tenant_id": "acme", "limit": [1], "allow_unpriced": "perhaps"}, {"limit", "allow_unpriced"}),
        ({"tenant_id": "x" * 129, "limit": 1}, {"tenant_id"}),
        ({"tenant_id": "", "limit": 1}, {"tenant_id"}),
        ({"tenant_id": ["acme"], "limit": 1}, {"tenant_id"}),
        ({"tenant_id": "acme", "limitt": 1, "softLimit": 1}, {"limit", "limitt", "softLimit"}),
    ],
)
def test_every_error_of_a_budget_at_once(platform: Caller, body: dict[str, Any], fields: set[str]) -> None:
    assert faults(platform.post("/budget", body)) == fields
    assert Budget.objects.count() == 0


@pytest.mark.parametrize("amount", [None, "", "abc", "NaN", "-Infinity", "-1", "9000000001", "1e999999"])
def test_impossible_amounts(acme: Caller, amount: str | None) -> None:
    query = {} if amount is None else {"amount": amount}
    assert faults(acme.get("/budget/check", **query)) == {"amount"}
    assert faults(acme.post("/budget/check", query)) == {"amount"}


def test_the_check_by_get(acme: Caller) -> None:
    assert acme.get("/budget/check", amount="5").json() == {"allowed": True, "remaining_after": None, "warnings": []}
    acme.post("/budget", {"limit": 10})
    assert acme.get("/budget/check", estimated_cost="2.5").json()["remaining_after"] == 7.5
    warned = acme.get("/budget/check", amount="9").json()
    assert (warned["allowed"], warned["remaining_after"], len(warned["warnings"])) == (True, 1.0, 1)
    assert acme.get("/budget/check", amount="10.000000001").json()["allowed"] is False
    assert acme.post("/budget/check", {"amount": 0}).json()["allowed"] is True


def test_a_tenant_without_a_budget(acme: Caller) -> None:
    answer = acme.get("/budget")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_tenants_are_kept_apart(platform: Caller, acme: Caller) -> None:
    platform.post("/budget", {**SEED_BUDGET, "tenant_id": "globex"})
    assert acme.get("/budget").status_code == 404
    for answer in (
        acme.get("/budget", tenant_id="globex"),
        acme.post("/budget", {**SEED_BUDGET, "tenant_id": "globex", "limit": -1}),
        acme.post("/budget/check", {"tenant_id": "globex", "amount": 1}),
        acme.get("/budget/check", tenant_id="globex", amount=1),
        acme.get("/usage", tenant_id="globex"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
    assert AuditEntry.objects.filter(event_type="permission.denied").count() == 5
    assert acme.post("/budget", SEED_BUDGET).status_code == 200
    assert Budget.objects.count() == 2


def test_scopes_are_required(platform: Caller) -> None:
    reader, runner = key_of("acme", "governance:read"), key_of("acme", "agents:run")
    assert reader.get("/budget").status_code == 404
    assert reader.post("/budget/check", {"amount": 1}).status_code == 200
    assert reader.post("/budget", SEED_BUDGET).status_code == 403
    for route in ("/budget", "/usage", "/budget/check?amount=1"):
        assert runner.get(route).status_code == 403


def test_the_platform_names_a_tenant(platform: Caller) -> None:
    assert faults(platform.get("/budget")) == {"tenant_id"}
    assert faults(platform.get("/budget", tenant_id="a\x00b")) == {"tenant_id"}
    assert faults(platform.get("/budget/check")) == {"tenant_id", "amount"}
    assert platform.get("/usage").status_code == 200


def test_a_change_is_audited_with_its_caller(acme: Caller) -> None:
    acme.post("/budget", SEED_BUDGET)
    entry = AuditEntry.objects.get(event_type="budget.set")
    assert entry.actor.startswith("key:")
    assert json.loads(entry.details)["after"]["limit"] == 100.0


def test_usage_of_today_and_since(platform: Caller, acme: Caller) -> None:
    now = utc_now()
    spend("0.0485")
    spend("1", "globex")
    with atomic_batch() as batch:
        record_usage(batch, tenant_id="acme", now=now - timedelta(days=3), usage=Usage(1, 0, 0, 1), cost=NanoUSD(1))
    body = acme.get("/usage").json()
    assert body == {
        "requestCount": 1,
        "totalInputTokens": 60,
        "totalOutputTokens": 40,
        "totalTokens": 100,
        "totalCost": 0.0485,
        "currency": "USD",
    }
    since = (now - timedelta(days=3)).date().isoformat()
    assert acme.get("/usage", since=since).json()["totalCost"] == 0.048500001
    assert acme.get("/usage", since=f"{since}T10:00:00Z").json()["requestCount"] == 2
    assert platform.get("/usage").json()["totalCost"] == 1.0485
    assert platform.get("/usage", tenant_id="globex").json()["totalCost"] == 1.0
    for since in ("yesterday", "2026-13-01", "0001-01-01T00:00:00+14:00"):
        assert faults(acme.get("/usage", since=since)) == {"since"}
