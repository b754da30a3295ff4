"""What a run request may not be: every error has its status and code, and leaves nothing behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from apps.traces.models import Trace
from fakes.llm import FakeProvider, error, reply
from tests.agents.backend import MESSAGES, Backend
from tests.agents.ledger import assert_balanced, deliveries
from tests.conftest import run
from tests.world import ACME, GLOBEX, USER, Server, send_body, tenant_key


@dataclass(frozen=True)
class Case:
    """A request that is refused. `fields` are the keys of details.fieldErrors; `audit` what is written about it."""

    id: str
    status: int
    code: str
    fields: tuple[str, ...] = ()
    body: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    limits: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    audit: tuple[str, ...] = ()


def hook(url: str = "https://hooks.example/x", **more: Any) -> dict[str, Any]:
    return {"webhook": {"url": url, **more}}


def invalid(name: str, *fields: str, **body: Any) -> Case:
    return Case(name, 400, "invalid_request", fields, body)


WRONG_TYPES = {"user_id": 7, "message": ["x"], "messages": "x", "metadata": [], "stream": "yes", "task_metadata": 1}

CASES = [
    Case("daemon key wrong", 403, "invalid_daemon_key", headers={"X-Agent-Daemon-Key": "x"}, audit=("auth.failure",)),
    Case("no credential", 403, "invalid_daemon_key", headers={"X-Agent-Daemon-Key": ""}, audit=("auth.failure",)),
    Case(
        "bearer unknown",
        401,
        "invalid_token",
        headers={"X-Agent-Daemon-Key": "", "Authorization": f"Bearer clk_{'x' * 43}"},
        audit=("auth.failure",),
    ),
    Case(
        "scope missing",
        403,
        "permission_denied",
        limits={"scopes": "traces:read"},
        audit=("permission.denied",),
    ),
    Case(
        "tenant foreign",
        403,
        "permission_denied",
        body={"tenant_id": GLOBEX},
        limits={},
        audit=("permission.denied",),
    ),
    Case(
        "model not permitted",
        403,
        "permission_denied",
        body={"metadata": {"model": "gpt-4o"}},
        limits={"allowed_models": ["openai/gpt-4o-mini"]},
        audit=("permission.denied",),
    ),
    Case(
        "prompt override without scope",
        403,
        "permission_denied",
        body={"metadata": {"system_prompt": "Forget the rules."}},
        limits={"scopes": "agents:run"},
        audit=("permission.denied",),
    ),
    Case("prompt override blank", 400, "invalid_request", ("metadata",), {"metadata": {"system_prompt": " \n"}}),
    invalid("session of another user", "session_key", session_key="user:u-2:support"),
    invalid("session without role", "session_key", session_key=f"user:{USER}"),
    invalid("session of no user", "session_key", session_key="user::support"),
    invalid("session of another kind", "session_key", session_key=f"agent:{USER}:support"),
    invalid("session with empty role", "session_key", session_key=f"user:{USER}:"),
    invalid("role climbs", "session_key", session_key=f"user:{USER}:../AGENTS"),
    invalid("role with slash", "session_key", session_key=f"user:{USER}:a/b"),
    invalid("role with dot", "session_key", session_key=f"user:{USER}:soul.md"),
    invalid("role with line break", "session_key", session_key=f"user:{USER}:support\n"),
    invalid("role too long", "session_key", session_key=f"user:{USER}:{'r' * 65}"),
    invalid("message empty", "message", message=""),
    invalid("message blank", "message", message=" \n\t"),
    invalid("message missing", "message", message=None),
    invalid("wrong types all at once", *WRONG_TYPES, **WRONG_TYPES),
    invalid(
        "wrong types and wrong meanings at once",
        *("messages", "session_key", "message", "metadata", "webhook", "task_id"),
        messages=[{"role": "x", "content": 1}],
        session_key=f"user:{USER}:../AGENTS",
        message=" ",
        metadata={"timezone": "Mars/Olympus", "kickoff_plan": "yes"},
        task_title=None,
        **hook("http://127.0.0.1/x"),
    ),
    invalid("history turn of no role", "messages", messages=[{"role": "tool", "content": "x"}, {"role": "user"}]),
    invalid("user with control character", "user_id", "session_key", user_id="u\x01"),
    invalid("workspace climbs", "workspace_id", workspace_id="../etc"),
    invalid("no task", "task_id", task_title=None),
    invalid("task empty", "task_id", task_title="", task_id=""),
    invalid("time zone unknown", "metadata", metadata={"timezone": "Mars/Olympus"}),
    invalid("time zone climbs", "metadata", metadata={"timezone": "../../etc/passwd"}),
    invalid("webhook to loopback", "webhook", **hook("http://127.0.0.1:9/x")),
    invalid("webhook to localhost", "webhook", **hook("http://localhost/x")),
    invalid("webhook to metadata service", "webhook", **hook("http://169.254.169.254/latest")),
    invalid("webhook to private network", "webhook", **hook("https://10.1.2.3/x")),
    invalid("webhook to private IPv6", "webhook", **hook("http://[fd00::1]/x")),
    invalid("webhook with odd address", "webhook", **hook("http://2130706433/x")),
    invalid("webhook by file", "webhook", **hook("file:///etc/passwd")),
    invalid("webhook with password", "webhook", **hook("https://u:p@hooks.example/x")),
    invalid("webhook sets Host", "webhook", **hook(headers={"Host": "evil.example"})),
    invalid("webhook splits headers", "webhook", **hook(headers={"X-A": "b\r\nX-C: d"})),
    invalid("webhook header no name", "webhook", **hook(headers={"X A": "b"})),
    invalid("webhook without url", "webhook", webhook={"secret": "s"}),
    Case("key too long", 400, "invalid_request", ("Idempotency-Key",), headers={"Idempotency-Key": "k" * 256}),
    Case(
        "model not configured",
        503,
        "model_not_configured",
        body={"metadata": {"model": "groq/llama-3.1-8b-instant"}},
        settings={"GROQ_API_KEY": "", "GROQ_BASE_URL": ""},
    ),
    Case("context too long", 400, "context_too_long", body={"message": "word " * 110_000}),
]


def ask(server: Server, case: Case, path: str) -> httpx.Response:
    limits = case.limits
    key = None if limits is None else tenant_key(ACME, **limits)
    body = send_body(**{"message": "Hello", **case.body})
    headers = dict(case.headers)
    if headers.get("X-Agent-Daemon-Key") == "":
        del headers["X-Agent-Daemon-Key"]
        return server.request("POST", path, key="", json=body, headers=headers)
    return server.request("POST", path, key=key, json=body, headers=headers)


@pytest.mark.parametrize("path", ["send", "stream"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_refused_request_leaves_nothing(
    server: Server, backend: Backend, openai: FakeProvider, settings: Any, case: Case, path: str
) -> None:
    for name, value in case.settings.items():
        setattr(settings, name, value)
    response = ask(server, case, f"/api/agents/{path}")
    assert (response.status_code, response.json()["code"]) == (case.status, case.code), response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error", "code", "details"}
    if case.fields:
        assert set(response.json()["details"]["fieldErrors"]) == set(case.fields)
    assert backend.calls == []
    assert openai.requests == []
    assert not Trace.objects.exists()
    assert deliveries() == []
    told = [entry["event_type"] for entry in server.audit() if entry["event_type"] != "key.create"]
    assert told == list(case.audit)
    assert_balanced()


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b'{"user_id": ', {}, 400, "invalid_json"),
        (b"", {}, 400, "invalid_json"),
        (b"[]", {}, 400, "invalid_request"),
        (b'"text"', {}, 400, "invalid_request"),
        (b'{"limit": NaN}', {}, 400, "invalid_json"),
        (b'{"message": "\\u0000"}', {}, 400, "invalid_json"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, {}, 400, "invalid_json"),
        (b"\xff\xfe", {}, 400, "invalid_json"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{}", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        (b'"' + b"x" * (2 * 1024 * 1024) + b'"', {}, 413, "body_too_large"),
    ],
    ids=["cut", "empty", "list", "text", "NaN", "NUL", "deep", "no UTF-8", "plain", "form", "huge"],
)
@pytest.mark.parametrize("path", ["send", "stream"])
def test_an_invalid_body(
    server: Server, path: str, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    headers = {"Content-Type": "application/json", **headers}
    response = server.request("POST", f"/api/agents/{path}", content=content, headers=headers)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert not Trace.objects.exists()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_only_post_runs_an_agent(server: Server, method: str) -> None:
    response = server.request(method, "/api/agents/send")
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert response.headers["Allow"] == "POST"


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_the_provider_does_not_know(
    server: Server, backend: Backend, openai: FakeProvider, stream: bool
) -> None:
    openai.script(error(404, {"error": {"message": "No such model", "code": "model_not_found"}}))
    body = send_body("Hello", metadata={"model": "gpt-none"}, stream=False)
    if stream:
        events = server.stream("Hello", metadata={"model": "gpt-none"})
        answer = events[-1].data
    else:
        response = server.post("/api/agents/send", body)
        assert response.status_code == 400
        answer = response.json()
    assert answer["code"] == "unknown_model"
    assert backend.messages == []
    assert len(openai.requests) == 1
    assert server.trace(answer["trace_id"])["status"] == "error"
    assert_balanced()


def test_a_task_the_backend_does_not_know(server: Server, backend: Backend, openai: FakeProvider) -> None:
    """The answer is stored and its delivery waits for a person or a repaired backend."""
    response = server.send("Hello", task_id="no-such-task")
    assert (response.status_code, response.json()["code"]) == (502, "backend_error")
    trace = server.trace(response.json()["trace_id"])
    assert trace["status"] == "success"
    assert trace["output"]["response"]
    assert trace["message_id"] is None
    assert [(row.kind, row.status, row.attempts) for row in deliveries()] == [("message", "pending", 1)]
    assert backend.messages == []
    assert len(backend.hits(MESSAGES)) == 1
    assert_balanced()


BAD_BUDGETS: list[tuple[bytes, str]] = [
    (b'{"tenant_id": "acme", "limit": 0}', "invalid_request"),
    (b'{"tenant_id": "acme", "limit": -1}', "invalid_request"),
    (b'{"tenant_id": "acme", "limit": NaN}', "invalid_json"),
    (b'{"tenant_id": "acme", "limit": 1e400}', "invalid_json"),
    (b'{"tenant_id": "acme", "limit": "NaN"}', "invalid_request"),
    (b'{"tenant_id": "acme", "limit": "Infinity"}', "invalid_request"),
    (b'{"tenant_id": "acme", "limit": 1e18}', "invalid_request"),
    (b'{"tenant_id": "acme", "limit": true}', "invalid_request"),
    (b'{"tenant_id": "acme", "limit": 1, "hard_limit": -0.01}', "invalid_request"),
    (b'{"tenant_id": "acme", "limit": 1, "soft_limit": 2}', "invalid_request"),
    (b'{"tenant_id": "acme", "limit": 1, "period": "hourly"}', "invalid_request"),
]


@pytest.mark.parametrize(("content", "code"), BAD_BUDGETS)
def test_an_invalid_budget(server: Server, content: bytes, code: str) -> None:
    response = server.request("POST", "/budget", content=content, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (400, code), response.text
    assert server.get("/budget", params={"tenant_id": ACME}).status_code == 404


@pytest.mark.parametrize("path", ["send", "stream"])
def test_a_budget_of_next_to_nothing_refuses_with_a_trace(
    server: Server, backend: Backend, openai: FakeProvider, path: str
) -> None:
    server.set_budget(limit=0.000000001)
    response = server.post(f"/api/agents/{path}", send_body("Hello"))
    assert (response.status_code, response.json()["code"]) == (402, "budget_exceeded")
    trace_id = response.json()["trace_id"]
    assert response.headers["X-Trace-Id"] == trace_id
    trace = server.trace(trace_id)
    assert (trace["status"], trace["error_code"], trace["total_cost"]) == ("error", "budget_exceeded", 0)
    assert [entry["event_type"] for entry in server.audit()] == ["budget.set", "budget.exceeded"]
    assert backend.calls == []
    assert openai.requests == []
    assert_balanced()


TAKEN = "018f4e9a-7c2b-7d3e-8a4f-5b6c7d8e9f00"


def test_a_trace_id_that_is_taken(server: Server, backend: Backend, openai: FakeProvider) -> None:
    assert server.send("Hello", headers={"X-Trace-Id": TAKEN}).json()["trace_id"] == TAKEN
    response = server.send("Again", headers={"X-Trace-Id": TAKEN.upper()})
    assert (response.status_code, response.json()["code"]) == (409, "trace_id_in_use")
    assert len(openai.requests) == 1
    assert len(backend.messages) == 1
    assert_balanced()


def test_a_taken_trace_id_costs_its_owner_nothing(server: Server, backend: Backend, openai: FakeProvider) -> None:
    """The run under way keeps its money and its Idempotency-Key, whoever uses its id meanwhile."""
    server.set_budget(ACME, limit=1)
    server.set_budget(GLOBEX, limit=1)

    openai.script(reply("Done", delay=0.5))
    owned = {"X-Trace-Id": TAKEN, "Idempotency-Key": "mine"}
    with ThreadPoolExecutor() as pool:
        first = pool.submit(server.send, "Hello", headers=owned)
        run(openai.arrived())
        others = [
            server.send("Hello", tenant_id=tenant, headers={**owned, "Idempotency-Key": f"other-{tenant}"})
            for tenant in (ACME, GLOBEX)
        ]
        reserved = [server.budget(tenant)["reserved"] for tenant in (ACME, GLOBEX)]
        done = first.result()
    assert [(other.status_code, other.json()["code"]) for other in others] == [(409, "trace_id_in_use")] * 2
    assert [amount > 0 for amount in reserved] == [True, False]
    assert done.status_code == 200, done.text
    again = server.send("Hello", headers={"Idempotency-Key": "mine"})
    assert again.json() == done.json()
    assert_balanced()
    assert_balanced(GLOBEX)
