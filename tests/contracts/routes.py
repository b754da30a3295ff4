"""Every route of the release, with the scope it needs and a request that it takes. A new route must be added here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from django.urls import URLPattern, URLResolver, get_resolver

from apps.agents.urls import run_routes
from apps.identity.domain.permissions import (
    AGENTS_RUN,
    GOVERNANCE_READ,
    GOVERNANCE_WRITE,
    SKILLS_READ,
    TRACES_READ,
    TRACES_WRITE,
    WORKSPACE_READ,
    WORKSPACE_WRITE,
)
from clasper.ops.urls import live_routes
from tests.world import Server, send_body

PUBLIC = ""
"""The scope of routes that need no credential."""

UNKNOWN_TRACE = "0194c8f0-7e1a-7000-8000-000000000001"


@dataclass(frozen=True)
class Route:
    """A method of a route. `query` completes the address; `body` is what is sent, None for routes that need none.

    `also` is a further scope that the route needs. `tenant` says where a caller may name a tenant, "query" or "body"; a
    name anywhere else means nothing.
    """

    method: str
    pattern: str
    scope: str
    query: str = ""
    body: dict[str, Any] | None = None
    answers: int = 200
    also: str = ""
    tenant: str = ""

    @property
    def name(self) -> str:
        return f"{self.method} /{self.pattern}"

    @property
    def path(self) -> str:
        return f"/{self.pattern}".replace("<str:trace_id>", UNKNOWN_TRACE)

    @property
    def url(self) -> str:
        return f"{self.path}?{self.query}" if self.query else self.path

    def call(self, server: Server, *, key: str | None = None, **options: Any) -> httpx.Response:
        """The request, with the daemon key, a tenant's key, or "" for none."""
        if self.body is not None and "content" not in options:
            options.setdefault("json", self.body)
        return server.request(self.method, self.url, key=key, **options)


_TASK = {"prompt": "Which city?", "schema": {"type": "object"}, "tenant_id": "acme"}
_COMPACT = {"messages": [{"role": "user", "content": "Hello"}], "keep_recent": 0, "tenant_id": "acme"}
_NOTE = {"key": "incident", "value": "INC-123"}
_DIFF = {"base_trace_id": UNKNOWN_TRACE, "compare_trace_id": UNKNOWN_TRACE}
_TENANT = "tenant_id=acme"
_CHECKPOINT = {
    "tenant_id": "acme",
    "seq": 1,
    "hash": "f" * 64,
    "created_at": "2026-02-10T12:00:00.000Z",
    "public_key": f"{'A' * 43}=",
    "signature": f"{'A' * 86}==",
}
_BUDGET = {"tenant_id": "acme", "limit": 1.0}
_FORECAST = {"tenant_id": "acme", "model": "gpt-4", "estimated_input_tokens": 5000}

ROUTES = (
    Route("POST", "api/agents/send", AGENTS_RUN, body=send_body(), tenant="body"),
    Route("POST", "api/agents/stream", AGENTS_RUN, body=send_body(), tenant="body"),
    Route("POST", "llm-task", AGENTS_RUN, body=_TASK, tenant="body"),
    Route("POST", "compact", AGENTS_RUN, body=_COMPACT, tenant="body"),
    Route("GET", "traces/<str:trace_id>/replay", TRACES_READ, answers=404),
    Route("POST", "traces/<str:trace_id>/replay", AGENTS_RUN, also=TRACES_WRITE, answers=404),
    Route("GET", "traces", TRACES_READ, tenant="query"),
    Route("GET", "traces/stats", TRACES_READ, tenant="query"),
    Route("POST", "traces/diff", TRACES_READ, body=_DIFF, answers=404, tenant="body"),
    Route("GET", "traces/by-label", TRACES_READ, query="label=team", tenant="query"),
    Route("GET", "traces/by-entity", TRACES_READ, query="task_id=t-1", tenant="query"),
    # What it answers is a file, so what is asked here is refused after everything that concerns the caller.
    Route("GET", "traces/export", TRACES_READ, query="format=x", answers=400, tenant="query"),
    Route("GET", "traces/<str:trace_id>", TRACES_READ, answers=404),
    Route("POST", "traces/<str:trace_id>/label", TRACES_WRITE, body={"labels": {"team": "blue"}}, answers=404),
    Route("POST", "traces/<str:trace_id>/annotate", TRACES_WRITE, body=_NOTE, answers=404),
    Route("GET", "traces/<str:trace_id>/annotations", TRACES_READ, answers=404),
    Route("GET", "audit", GOVERNANCE_READ, tenant="query"),
    Route("GET", "audit/stats", GOVERNANCE_READ, tenant="query"),
    Route("GET", "audit/verify", GOVERNANCE_READ, tenant="query"),
    Route("POST", "audit/verify", GOVERNANCE_READ, body={"checkpoint": _CHECKPOINT}),
    Route("GET", "audit/checkpoint", GOVERNANCE_READ, query=_TENANT, answers=503, tenant="query"),
    # What it answers is a file, so what is asked here is refused after everything that concerns the caller.
    Route("GET", "audit/export", GOVERNANCE_READ, query="format=x", answers=400, tenant="query"),
    Route("GET", "budget", GOVERNANCE_READ, query=_TENANT, answers=404, tenant="query"),
    Route("POST", "budget", GOVERNANCE_WRITE, body=_BUDGET, tenant="body"),
    Route("GET", "budget/check", GOVERNANCE_READ, query=f"{_TENANT}&amount=1", tenant="query"),
    Route("POST", "budget/check", GOVERNANCE_READ, body={"tenant_id": "acme", "amount": 1.0}, tenant="body"),
    Route("POST", "cost/forecast", GOVERNANCE_READ, body=_FORECAST, tenant="body"),
    Route("POST", "risk/score", GOVERNANCE_READ, body={"tenant_id": "acme", "tool_count": 5}, tenant="body"),
    Route("GET", "usage", GOVERNANCE_READ, tenant="query"),
    Route("GET", "retention/policy", GOVERNANCE_READ, query=_TENANT, answers=404, tenant="query"),
    Route(
        "POST", "retention/policy", GOVERNANCE_WRITE, body={"tenant_id": "acme", "retention_days": 30}, tenant="body"
    ),
    Route("POST", "retention/enforce", GOVERNANCE_WRITE, tenant="body"),
    Route("GET", "retention/stats", GOVERNANCE_READ, tenant="query"),
    Route("GET", "skills", SKILLS_READ),
    Route("GET", "context", WORKSPACE_READ),
    Route("GET", "boot", WORKSPACE_READ),
    Route("POST", "boot/complete", WORKSPACE_WRITE, answers=404),
    Route("GET", "api/compatibility", GOVERNANCE_READ),
    # For the platform alone: a tenant's key is refused, whatever its scopes.
    Route("GET", "metrics", GOVERNANCE_READ, answers=403),
    # A feed does not end by itself, so what is asked here is refused after everything that concerns the caller.
    Route("GET", "ops/api/events", GOVERNANCE_READ, query="last_event_id=x", answers=400, tenant="query"),
    Route("GET", "api/version", PUBLIC),
    Route("GET", "api/schema", PUBLIC),
    Route("GET", "api/docs", PUBLIC),
    Route("GET", "health", PUBLIC),
    Route("GET", "health/live", PUBLIC),
    Route("GET", "health/ready", PUBLIC),
)

GUARDED = [route for route in ROUTES if route.scope]
READING_BODIES = [route for route in ROUTES if route.body is not None]
RUNS = [route for route in ROUTES if route.pattern in dict(run_routes) and "<" not in route.pattern]
"""Runs that begin with a body alone. Replays need a run to repeat: tests/agents/test_replay.py."""
CONVERSATIONS = [run for run in RUNS if run.pattern.startswith("api/agents/")]
"""Runs with the workspace's prompt; the others have one of Clasper's own."""


def served() -> Iterator[tuple[str, str]]:
    """Method and pattern of every route the application has.

    Without Django's admin, which has its own login, and the embedded control plane, which takes agent tokens.
    """
    for pattern, consumer in (*run_routes, *live_routes):
        yield from ((method, pattern) for method in consumer.methods)
    yield from _walk(get_resolver("clasper.urls").url_patterns, "")


def _walk(patterns: list[Any], prefix: str) -> Iterator[tuple[str, str]]:
    for each in patterns:
        where = f"{prefix}{each.pattern}"
        if isinstance(each, URLResolver):
            if each.app_name != "admin":
                yield from _walk(each.url_patterns, where)
            continue
        assert isinstance(each, URLPattern)
        view = each.callback.view_class  # type: ignore[attr-defined]  # Django sets it in as_view()
        if not view.__module__.startswith("apps.control_plane."):
            methods = set(view.http_method_names) - {"options", "head"}
            yield from ((method.upper(), where) for method in sorted(methods) if hasattr(view, method))
