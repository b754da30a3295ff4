"""GET /audit, /audit/stats, /audit/verify and the audit_verify command."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client
from drf_spectacular.generators import SchemaGenerator

from apps.audit.services.reading import list_audit
from apps.audit.services.recording import record_audit
from apps.identity.services import authentication as access
from apps.identity.services.keys import create_api_key
from clasper.core.db import atomic_batch
from clasper.core.tenancy import OneTenant
from tests.audit.chain import entry_hash

TRACE = "0194c8f0-7e1a-7000-8000-000000000001"
DAEMON = {"X-Agent-Daemon-Key": "daemon-key"}


@pytest.fixture(autouse=True)
def guarded(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.AGENT_DAEMON_API_KEY = "daemon-key"
    settings.MIDDLEWARE = []  # these doors need none, and loading it costs more than the request
    monkeypatch.setattr(access, "_failures", access._FailureBudget())


@pytest.fixture
def log(store: None, now: datetime) -> None:
    """Three entries of acme and one of globex; no chain of the platform."""
    with atomic_batch() as batch:
        for tenant_id, event_type, trace_id, hours in [
            ("acme", "agent.start", TRACE, 72),
            ("acme", "tool.denied", TRACE, 1),
            ("acme", "agent.complete", None, 0),
            ("globex", "agent.start", None, 0),
        ]:
            at = now - timedelta(hours=hours)
            details = {"tool": "delete_user"}
            record_audit(
                batch,
                tenant_id=tenant_id,
                event_type=event_type,
                actor="agent:jarvis",
                now=at,
                trace_id=trace_id,
                details=details,
            )


def tenant_key(now: datetime, *scopes: str) -> dict[str, str]:
    new = create_api_key(tenant_id="acme", name="", scopes=scopes, actor="user:ada", now=now)
    return {"Authorization": f"Bearer {new.key}"}


def get(path: str, headers: dict[str, str] | None = None, **query: Any) -> tuple[int, dict[str, Any]]:
    answer = Client().get(path, query, headers=DAEMON if headers is None else headers)
    return answer.status_code, json.loads(answer.content)


def test_entries_are_listed_as_documented(log: None) -> None:
    status, body = get("/audit", tenant_id="acme")
    assert status == 200
    assert list(body) == ["entries", "total", "limit", "offset", "next_cursor", "total_is_exact"]
    assert (body["total"], body["limit"], body["offset"], body["next_cursor"], body["total_is_exact"]) == (
        3,
        100,
        0,
        None,
        True,
    )
    newest, denied, oldest = body["entries"]
    assert (newest["seq"], denied["seq"], oldest["seq"]) == (3, 2, 1)
    assert {
        name: denied[name] for name in ("timestamp", "event_type", "tenant_id", "trace_id", "actor", "details")
    } == {
        "timestamp": "2026-02-10T11:00:00.000Z",
        "event_type": "tool.denied",
        "tenant_id": "acme",
        "trace_id": TRACE,
        "actor": "agent:jarvis",
        "details": {"tool": "delete_user"},
    }
    assert type(denied["id"]) is int
    assert newest["trace_id"] is None


def test_anybody_can_recompute_what_is_shown(log: None) -> None:
    previous = "0" * 64
    for entry in reversed(get("/audit", tenant_id="acme")[1]["entries"]):
        shown = {name: value for name, value in entry.items() if name not in ("id", "hash")}
        assert entry["prev_hash"] == previous
        assert entry["hash"] == entry_hash(**shown)
        previous = entry["hash"]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({}, 4),
        ({"tenant_id": "", "event_type": "", "start_time": "", "limit": "", "cursor": ""}, 4),
        ({"tenant_id": "globex"}, 1),
        ({"tenant_id": "nobody"}, 0),
        ({"event_type": "tool.denied"}, 1),
        ({"event_type": "tool_permission_denied"}, 1),
        ({"event_type": "unheard"}, 0),
        ({"trace_id": TRACE}, 2),
        ({"start_time": "2026-02-10T11:00:00Z"}, 3),
        ({"start_date": "2026-02-10T11:00:00Z"}, 3),
        ({"start_time": "2026-02-10"}, 3),
        ({"end_time": "2026-02-10T11:00:00.000Z"}, 2),
        ({"end_date": "2026-02-07"}, 1),
        ({"end_date": "20260207"}, 1),
        ({"end_date": "2026-W06-6"}, 1),
        ({"end_date": "2026-W06"}, 1),
        ({"end_date": "2026-02-07T12"}, 1),
        ({"end_date": "20260207T00"}, 0),
        ({"start_time": "2026-02-10T13:00:00+02:00", "end_time": "2026-02-10T11:59:59Z"}, 1),
        ({"limit": 1}, 1),
        ({"offset": 3}, 1),
        ({"limit": 1000, "offset": 2**53 - 1}, 0),
    ],
    ids=str,
)
def test_filters(log: None, query: dict[str, Any], count: int) -> None:
    status, body = get("/audit", **query)
    assert (status, len(body["entries"])) == (200, count)


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ({"limit": 0}, {"limit"}),
        ({"limit": 1001, "offset": -1}, {"limit", "offset"}),
        ({"limit": "many"}, {"limit"}),
        ({"offset": 2**53}, {"offset"}),
        ({"start_time": "yesterday", "end_date": "2026-13-01"}, {"start_time", "end_date"}),
        ({"start_time": "0001-01-01T00:00:00+05:00"}, {"start_time"}),
        ({"start_time": "2026-02-02", "end_time": "2026-02-01"}, {"end_time"}),
        ({"cursor": "forged"}, {"cursor"}),
        ({"limit": 0, "start_time": "2026-02-02", "end_date": "2026-02-01"}, {"limit", "end_date"}),
        ({"limit": 0, "cursor": "forged", "offset": 1}, {"limit", "cursor", "offset"}),
        ({"cursor": "YXVkaXQ6MQ", "offset": 1}, {"offset"}),
        ({"tenant_id": "x" * 129, "trace_id": "\x00"}, {"tenant_id", "trace_id"}),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, set) else str(value),
)
def test_all_errors_of_a_query_are_reported_at_once(log: None, query: dict[str, Any], fields: set[str]) -> None:
    status, body = get("/audit", **query)
    assert (status, body["code"]) == (400, "invalid_request")
    assert set(body["details"]["fieldErrors"]) == fields


def test_pages_follow_the_cursor(log: None) -> None:
    first = get("/audit", limit=3)[1]
    second = get("/audit", limit=3, cursor=first["next_cursor"])[1]
    assert [len(first["entries"]), len(second["entries"]), second["next_cursor"]] == [3, 1, None]
    assert second["total"] == 4


def test_stats_are_as_documented(log: None) -> None:
    status, body = get("/audit/stats", tenant_id="acme")
    assert status == 200
    assert body == {
        "total_entries": 3,
        "entries_by_type": {"agent.complete": 1, "agent.start": 1, "tool.denied": 1},
        "entries_last_24h": body["entries_last_24h"],
        "oldest_entry": "2026-02-07T12:00:00.000Z",
    }
    assert get("/audit/stats")[1]["total_entries"] == 4
    assert get("/audit/stats", tenant_id="nobody")[1] == {
        "total_entries": 0,
        "entries_by_type": {},
        "entries_last_24h": 0,
        "oldest_entry": None,
    }


def break_the_chain() -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE audit_heads SET seq = seq + 1 WHERE tenant_id = 'acme'")


def test_the_chain_is_verified(log: None) -> None:
    status, body = get("/audit/verify", tenant_id="acme")
    assert (status, body["valid"], body["first_bad_seq"], body["checked"]) == (200, True, None, 3)
    status, body = get("/audit/verify")
    assert (body["valid"], body["first_bad_seq"]) == (True, None)
    assert [each["tenant_id"] for each in body["tenants"]] == ["acme", "globex"]
    break_the_chain()
    body = get("/audit/verify", tenant_id="acme")[1]
    assert (body["valid"], body["first_bad_seq"], body["last_seq"]) == (False, 4, 3)
    body = get("/audit/verify")[1]
    assert (body["valid"], body["first_bad_seq"]) == (False, 4)
    assert [each["valid"] for each in body["tenants"]] == [False, True]


ROUTES = ["/audit", "/audit/stats", "/audit/verify"]


@pytest.mark.parametrize("route", ROUTES)
def test_a_tenant_sees_only_itself(log: None, now: datetime, route: str) -> None:
    key = tenant_key(now, "governance:read")
    for query in ({}, {"tenant_id": "acme"}):
        status, body = get(route, key, **query)
        assert status == 200
        assert "globex" not in json.dumps(body)
        assert "tenants" not in body
    status, body = get(route, key, tenant_id="globex")
    assert (status, body["code"], body["details"]) == (403, "permission_denied", {"permission": "tenant"})
    denied = list_audit(tenants=OneTenant("acme"), event_type="permission.denied").entries
    assert [entry.details for entry in denied] == [{"permission": "tenant", "route": f"GET {route}"}]


@pytest.mark.parametrize("route", ROUTES)
def test_the_scope_is_required(log: None, now: datetime, route: str) -> None:
    status, body = get(route, tenant_key(now, "agents:run"))
    assert (status, body["code"], body["details"]) == (403, "permission_denied", {"permission": "governance:read"})
    (denied,) = list_audit(tenants=OneTenant("acme"), event_type="permission.denied").entries
    assert denied.details == {"permission": "governance:read", "route": f"GET {route}"}


@pytest.mark.parametrize("route", ROUTES)
def test_a_credential_is_required(log: None, route: str) -> None:
    assert get(route, {}) == (403, {"error": "Invalid daemon key", "code": "invalid_daemon_key", "details": {}})
    assert get(route, {"Authorization": "Bearer clk_nope"})[0] == 401


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_the_log_cannot_be_changed_over_http(log: None, method: str) -> None:
    answer = getattr(Client(), method)("/audit", headers=DAEMON)
    assert answer.status_code == 405
    assert json.loads(answer.content)["code"] == "method_not_allowed"


def test_the_openapi_document_describes_the_endpoints() -> None:
    generator: Any = SchemaGenerator
    schema = generator().get_schema(public=True)
    operation = schema["paths"]["/audit"]["get"]
    names = {parameter["name"] for parameter in operation["parameters"]}
    assert {"tenant_id", "event_type", "trace_id", "start_time", "end_time", "limit", "offset", "cursor"} <= names
    assert operation["security"] == [{"daemonKey": []}, {"tenantKey": []}]
    assert set(schema["components"]["securitySchemes"]) == {"daemonKey", "tenantKey"}
    limit = next(each for each in operation["parameters"] if each["name"] == "limit")
    assert (limit["schema"]["minimum"], limit["schema"]["maximum"], limit["schema"]["default"]) == (1, 1000, 100)
    assert {"/audit/stats", "/audit/verify"} <= set(schema["paths"])


# --- The command ----------------------------------------------------------------------------------------------------


def test_the_command_names_the_first_bad_seq(log: None, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("audit_verify")
    assert capsys.readouterr().out == "acme: valid, 3 entries\nglobex: valid, 1 entries\n"
    break_the_chain()
    with pytest.raises(SystemExit) as ended:
        call_command("audit_verify")
    assert ended.value.code == 1
    assert "acme: BROKEN, first bad seq 4: entry 4 is missing" in capsys.readouterr().out
    call_command("audit_verify", "--tenant", "globex")
    assert capsys.readouterr().out == "globex: valid, 1 entries\n"
    with pytest.raises(SystemExit):
        call_command("audit_verify", "--tenant", "acme", "--json")
    body = json.loads(capsys.readouterr().out)
    assert (body["valid"], body["first_bad_seq"], body["tenants"][0]["tenant_id"]) == (False, 4, "acme")


def test_the_command_says_that_the_log_is_empty(store: None, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("audit_verify")
    assert capsys.readouterr().out == "The audit log is empty.\n"
