"""Every route of the release, with the scope it needs and a request that it takes. A new route must be added here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from django.urls import URLPattern, URLResolver, get_resolver

from apps.agents.urls import run_routes
from apps.governance.domain.permissions import (
    AGENTS_RUN,
    GOVERNANCE_READ,
    GOVERNANCE_WRITE,
    SKILLS_READ,
    TRACES_READ,
    WORKSPACE_READ,
    WORKSPACE_WRITE,
)
from tests.world import Server, send_body

PUBLIC = ""
"""The scope of routes that need no credential."""

UNKNOWN_TRACE = "0194c8f0-7e1a-7000-8000-000000000001"


@dataclass(frozen=True)
class Route:
    """A method of a route. `query` completes the address; `body` is what is sent, None for routes that read none."""

    method: str
    pattern: str
    scope: str
    query: str = ""
    body: dict[str, Any] | None = None
    answers: int = 200

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
_TENANT = "tenant_id=acme"
_BUDGET = {"tenant_id": "acme", "limit": 1.0}
_FORECAST = {"tenant_id": "acme", "model": "gpt-4", "estimated_input_tokens": 5000}

ROUTES = (
    Route("POST", "api/agents/send", AGENTS_RUN, body=send_body()),
    Route("POST", "api/agents/stream", AGENTS_RUN, body=send_body()),
    Route("POST", "llm-task", AGENTS_RUN, body=_TASK),
    Route("POST", "compact", AGENTS_RUN, body=_COMPACT),
    Route("GET", "traces", TRACES_READ),
    Route("GET", "traces/stats", TRACES_READ),
    Route("GET", "traces/<str:trace_id>", TRACES_READ, answers=404),
    Route("GET", "audit", GOVERNANCE_READ),
    Route("GET", "audit/stats", GOVERNANCE_READ),
    Route("GET", "audit/verify", GOVERNANCE_READ),
    Route("GET", "budget", GOVERNANCE_READ, query=_TENANT, answers=404),
    Route("POST", "budget", GOVERNANCE_WRITE, body=_BUDGET),
    Route("GET", "budget/check", GOVERNANCE_READ, query=f"{_TENANT}&amount=1"),
    Route("POST", "budget/check", GOVERNANCE_READ, body={"tenant_id": "acme", "amount": 1.0}),
    Route("POST", "cost/forecast", GOVERNANCE_READ, body=_FORECAST),
    Route("GET", "usage", GOVERNANCE_READ),
    Route("GET", "skills", SKILLS_READ),
    Route("GET", "context", WORKSPACE_READ),
    Route("GET", "boot", WORKSPACE_READ),
    Route("POST", "boot/complete", WORKSPACE_WRITE, answers=404),
    Route("GET", "api/compatibility", GOVERNANCE_READ),
    Route("GET", "api/version", PUBLIC),
    Route("GET", "api/schema", PUBLIC),
    Route("GET", "api/docs", PUBLIC),
    Route("GET", "health", PUBLIC),
    Route("GET", "health/live", PUBLIC),
    Route("GET", "health/ready", PUBLIC),
)

GUARDED = [route for route in ROUTES if route.scope]
READING_BODIES = [route for route in ROUTES if route.body is not None]
RUNS = [route for route in ROUTES if route.pattern in dict(run_routes)]
CONVERSATIONS = [run for run in RUNS if run.pattern.startswith("api/agents/")]
"""Runs with the workspace's prompt; the others have one of Clasper's own."""


def served() -> Iterator[tuple[str, str]]:
    """Method and pattern of every route the application has.

    Without Django's admin, which has its own login, and the embedded control plane, which takes agent tokens.
    """
    for pattern, consumer in run_routes:
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
