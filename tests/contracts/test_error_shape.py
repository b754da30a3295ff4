"""One error body on every route, whatever goes wrong, and never a word about our insides."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from django.conf import settings as django_settings
from django.db import connection

from apps.agents import engine
from apps.identity.domain.permissions import SCOPES
from clasper.core.http import MAX_JSON_DEPTH
from clasper.core.logs import JSONFormatter
from fakes.llm import FakeProvider, error, half_stream, raw
from tests.contracts.routes import GUARDED, READING_BODIES, ROUTES, RUNS, Route
from tests.world import ACME, Server, parse_events, tenant_key

INTERNAL = (
    *("Traceback", "SELECT", "INSERT", "/srv", str(django_settings.BASE_DIR), "/tmp"),
    *("site-packages", "Exception", "Error:", 'File "'),
)

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS")
ALLOWED: dict[str, set[str]] = {}
for _route in ROUTES:
    ALLOWED.setdefault(_route.path, set()).add(_route.method)
WRONG_METHODS = [(method, path) for path, known in ALLOWED.items() for method in METHODS if method not in known]


def _name(route: Route) -> str:
    return route.name


def check(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The one body; gives it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body: dict[str, Any] = response.json()
    check_body(body, code)
    return body


def check_body(body: dict[str, Any], code: str) -> None:
    assert body["code"] == code
    assert body.keys() - {"trace_id", "type"} == {"error", "code", "details"}
    assert isinstance(body["error"], str)
    assert body["error"].strip()
    assert isinstance(body["details"], dict)
    if "fieldErrors" in body["details"]:
        faults = body["details"]["fieldErrors"]
        assert all(isinstance(text, str) for texts in faults.values() for text in texts)
        assert isinstance(body["details"]["formErrors"], list)
    text = json.dumps(body)
    assert not [word for word in INTERNAL if word in text], text


# --- Before any route is reached -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/nothing", "/api/agents/send/", "/traces/", "/api", "//etc/passwd", "/%00", "/%ff"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_such_route(method: str, path: str, server: Server) -> None:
    check(server.request(method, path), 404, "not_found")


@pytest.mark.parametrize(("method", "path"), WRONG_METHODS)
def test_wrong_method(method: str, path: str, server: Server) -> None:
    response = server.request(method, path)
    check(response, 405, "method_not_allowed")
    named = {each.strip() for each in response.headers["Allow"].split(",")}
    assert named - {"HEAD"} == ALLOWED[path]
    assert not server.audit()


@pytest.mark.parametrize("path", ["/traces/export?format=csv", "/audit/export", f"/audit/checkpoint?tenant_id={ACME}"])
def test_what_is_audited_when_it_is_given_out_takes_no_head(path: str, server: Server) -> None:
    response = server.request("HEAD", path)
    assert (response.status_code, response.headers["Allow"]) == (405, "GET")
    assert not server.audit()


def test_a_host_that_is_not_served(server: Server, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["clasper.example.com"]
    check(server.get("/health"), 400, "invalid_request")


ADMIN = "/admin/login/"


@pytest.mark.parametrize("path", [*ALLOWED, ADMIN, "/nothing"])
def test_more_parameters_than_anybody_needs(path: str, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    known = ALLOWED.get(path, {"GET"})
    query = "&".join(f"secret{n}=1" for n in range(1_001))
    response = server.request("GET" if "GET" in known else "POST", f"{path}?{query}", json={})
    if response.status_code not in (200, 404):
        check(response, 400, "invalid_request")
    assert not [each for each in caplog.records if "secret1" in JSONFormatter().format(each)]


# --- Who is calling ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", GUARDED, ids=_name)
def test_no_credential(route: Route, server: Server) -> None:
    check(route.call(server, key=""), 403, "invalid_daemon_key")


@pytest.mark.parametrize("route", GUARDED, ids=_name)
@pytest.mark.parametrize("key", ["clk_wrong", "wrong"])
def test_unknown_bearer(route: Route, key: str, server: Server) -> None:
    response = route.call(server, key=key)
    check(response, 401, "invalid_token")
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("route", GUARDED, ids=_name)
def test_wrong_daemon_key(route: Route, server: Server) -> None:
    check(route.call(server, headers={"X-Agent-Daemon-Key": "wrong"}), 403, "invalid_daemon_key")


@pytest.mark.parametrize("route", GUARDED, ids=_name)
def test_missing_scope(route: Route, server: Server) -> None:
    key = tenant_key(ACME, ",".join(scope for scope in SCOPES if scope != route.scope))
    check(route.call(server, key=key), 403, "permission_denied")


@pytest.mark.parametrize("route", GUARDED, ids=_name)
def test_too_many_requests(route: Route, server: Server) -> None:
    key = tenant_key(ACME, "*", rate_limit="1/hour")
    assert route.call(server, key=key).status_code == route.answers
    response = route.call(server, key=key)
    check(response, 429, "rate_limited")
    assert 0 < int(response.headers["Retry-After"]) <= 3600


# --- What is sent --------------------------------------------------------------------------------------------------

DEEP = b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH
NOT_JSON = {
    "nothing but a brace": b"{",
    "text": b"hello",
    "a form": b"user_id=1",
    "not UTF-8": b'{"message": "\xff"}',
    "NaN": b'{"limit": NaN, "amount": NaN}',
    "infinity": b'{"limit": Infinity, "amount": -Infinity}',
    "a trailing comma": b'{"limit": 1,}',
    "two values": b"{} {}",
    "a NUL character": b'{"message": "a\\u0000b", "tenant_id": "a\\u0000b"}',
    "a NUL character in a key": b'{"a\\u0000b": 1}',
    "deep nesting": b'{"metadata": %s}' % DEEP,
    "absurd nesting": b"[" * 100_000,
    "a half surrogate": b'{"message": "\\ud800"}',
}


@pytest.mark.parametrize("route", READING_BODIES, ids=_name)
@pytest.mark.parametrize("fault", NOT_JSON)
def test_not_json(route: Route, fault: str, server: Server) -> None:
    response = route.call(server, content=NOT_JSON[fault], headers={"Content-Type": "application/json"})
    check(response, 400, "invalid_json")


@pytest.mark.parametrize("route", READING_BODIES, ids=_name)
@pytest.mark.parametrize("body", [[], [{}], "text", 1, None, True], ids=repr)
def test_json_that_is_no_object(route: Route, body: Any, server: Server) -> None:
    content = json.dumps(body).encode()
    found = check(
        route.call(server, content=content, headers={"Content-Type": "application/json"}), 400, "invalid_request"
    )
    assert found["details"]["formErrors"] == ["Expected a JSON object."]


@pytest.mark.parametrize("route", READING_BODIES, ids=_name)
def test_an_empty_object_names_the_missing_fields(route: Route, server: Server) -> None:
    found = check(route.call(server, json={}), 400, "invalid_request")
    assert found["details"]["fieldErrors"]


@pytest.mark.parametrize("route", READING_BODIES, ids=_name)
@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/form-data; boundary=x", "nonsense"])
def test_wrong_content_type(route: Route, kind: str, server: Server) -> None:
    response = route.call(server, content=json.dumps(route.body), headers={"Content-Type": kind})
    check(response, 415, "unsupported_media_type")


@pytest.mark.parametrize("route", [each for each in ROUTES if each.method == "POST"], ids=_name)
@pytest.mark.parametrize("key", [None, ""], ids=["known", "stranger"])
def test_a_body_over_the_limit(route: Route, key: str | None, server: Server, settings: Any) -> None:
    """Refused before anything else, so that a stranger cannot fill memory or disk."""
    settings.CLASPER_MAX_BODY_BYTES = 2_000
    content = json.dumps({**(route.body or {}), "padding": "x" * 2_000}).encode()
    headers = {"Content-Type": "application/json"}
    check(route.call(server, key=key, content=content, headers=headers), 413, "body_too_large")
    check(route.call(server, key=key, content=iter([content]), headers=headers), 413, "body_too_large")


@pytest.mark.parametrize("route", READING_BODIES, ids=_name)
def test_a_body_at_the_limit_is_read(route: Route, server: Server, settings: Any) -> None:
    content = json.dumps(route.body).encode()
    settings.CLASPER_MAX_BODY_BYTES = 2_000
    padded = content + b" " * (2_000 - len(content))
    answer = route.call(server, content=padded, headers={"Content-Type": "application/json"})
    assert answer.status_code == route.answers


QUERIES = [
    ("/traces", "limit=0"),
    ("/traces", "limit=x"),
    ("/traces", "limit=1e99"),
    ("/traces", "offset=-1"),
    ("/traces", "status=nonsense"),
    ("/traces", "cursor=nonsense"),
    ("/traces", "start_date=yesterday"),
    ("/traces", "start_date=2026-02-02T00:00:00Z&end_date=2026-02-01T00:00:00Z"),
    ("/traces", "label_value=x"),
    ("/traces", "agent_id=%00"),
    ("/traces/stats", "start_date=%00"),
    ("/traces/stats", "start_date=99999-01-01"),
    ("/audit", "limit=0"),
    ("/audit", "limit=100000"),
    ("/audit", "offset=99999999999999999999"),
    ("/audit", "cursor=nonsense"),
    ("/audit", "start_time=0000-00-00"),
    ("/audit", "tenant_id=%00"),
    ("/audit/verify", f"tenant_id={'x' * 200}"),
    ("/budget", ""),
    ("/budget", "tenant_id=%00"),
    ("/budget/check", "tenant_id=acme&amount=NaN"),
    ("/budget/check", "tenant_id=acme&amount=-1"),
    ("/budget/check", "tenant_id=acme&amount=1e999999999"),
    ("/usage", "since=nonsense"),
    ("/usage", "since=9999-12-31T23:59:59-23:59"),
    ("/context", "role=../secrets"),
    ("/api/compatibility", "control_plane_url=http://169.254.169.254/"),
    ("/api/compatibility", "control_plane_url=file:///etc/passwd"),
    ("/api/compatibility", "control_plane_url=%00"),
]


@pytest.mark.parametrize(("path", "query"), QUERIES)
def test_an_invalid_query(path: str, query: str, server: Server) -> None:
    found = check(server.get(f"{path}?{query}"), 400, "invalid_request")
    assert found["details"]["fieldErrors"]


@pytest.mark.parametrize("path", ["/traces/unknown", "/traces/%00", f"/traces/{'x' * 3000}", "/budget?tenant_id=acme"])
def test_no_such_object(path: str, server: Server) -> None:
    check(server.get(path), 404, "not_found")


@pytest.mark.parametrize("route", GUARDED, ids=_name)
def test_the_answer_is_json_whatever_the_caller_accepts(route: Route, server: Server) -> None:
    """A browser that opens an endpoint sees its answer."""
    if route not in RUNS:
        answer = route.call(server, headers={"Accept": "text/html"})
        assert answer.status_code != 406
        assert answer.headers["content-type"] == (
            "text/plain; version=0.0.4; charset=utf-8" if route.pattern == "metrics" else "application/json"
        )


# --- What breaks inside --------------------------------------------------------------------------------------------


class Secret(Exception):
    """A failure nobody foresaw, with a text nobody may read."""


@pytest.mark.parametrize("run", RUNS, ids=_name)
def test_an_unforeseen_failure_of_a_run(run: Route, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise Secret("SELECT secret FROM /srv/clasper")

    monkeypatch.setattr(engine, "prepare", broken)
    check(run.call(server), 500, "internal_error")


def test_an_unforeseen_failure_of_a_view(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise Secret("SELECT secret FROM /srv/clasper")

    monkeypatch.setattr("apps.traces.api.lists.list_traces", broken)
    check(server.get("/traces"), 500, "internal_error")


@pytest.mark.parametrize("table", ["traces", "audit_log"])
def test_a_database_that_fails(table: str, server: Server) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO elsewhere")
    try:
        path = {"traces": "/traces", "audit_log": "/audit"}[table]
        check(server.get(path), 503, "unavailable")
        check(server.send(), 503, "unavailable")
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE elsewhere RENAME TO {table}")


PROVIDER_FAULTS = {
    "a server error": error(500, "Traceback (most recent call last): secret"),
    "a refusal": error(400, {"error": {"message": "SELECT secret", "type": "x", "code": "invalid"}}),
    "an answer that is no answer": raw(b"<html>/srv/clasper</html>"),
}


@pytest.mark.parametrize("fault", PROVIDER_FAULTS)
def test_a_provider_that_fails(fault: str, server: Server, openai: FakeProvider) -> None:
    openai.default = PROVIDER_FAULTS[fault]
    body = check(server.send(), 502, "provider_error")
    assert server.trace(body["trace_id"])["status"] == "error"


@pytest.mark.parametrize("route", ["/api/agents/send", "/api/agents/stream"])
def test_a_stream_that_breaks(route: str, server: Server, openai: FakeProvider) -> None:
    openai.script(half_stream(2))
    sent = {"user_id": "u-1", "session_key": "user:u-1:a", "message": "Hi", "task_title": "T", "stream": True}
    events = parse_events(server.post(route, sent).text)
    assert events[-1].name == "error"
    check_body(events[-1].data, "provider_error")
    assert server.trace(events[-1].data["trace_id"])["status"] == "error"
