"""The people and the server of the tests' world, and how a test talks to them."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from typing import Any

import httpx

from apps.identity.services.keys import KeyLimits, create_api_key
from clasper.core.clock import utc_now

ACME = "acme"
GLOBEX = "globex"
USER = "u-1"
DAEMON_KEY = "test-daemon-key-0123456789abcdef"

_TLS = ssl.create_default_context()
"""Made once: httpx would read the certificates again for each request, which takes longer than the request."""


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    name: str
    data: dict[str, Any]


class Server:
    """The running application as a client sees it; requests carry the daemon key unless told otherwise."""

    def __init__(self, url: str) -> None:
        self.url = url

    def request(self, method: str, path: str, *, key: str | None = None, **options: Any) -> httpx.Response:
        """Any request. `key` is a tenant's API key; without it the daemon key is sent, with "" nothing is."""
        headers = dict(options.pop("headers", {}))
        if key is None:
            headers.setdefault("X-Agent-Daemon-Key", DAEMON_KEY)
        elif key:
            headers.setdefault("Authorization", f"Bearer {key}")
        return httpx.request(method, f"{self.url}{path}", headers=headers, timeout=30, verify=_TLS, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return self.request("POST", path, json=body, **options)

    def send(self, message: str = "Hello", *, key: str | None = None, **body: Any) -> httpx.Response:
        """A run of tenant acme; `body` overrides fields, `headers` adds headers."""
        headers = body.pop("headers", {})
        return self.post("/api/agents/send", send_body(message, **body), key=key, headers=headers)

    def stream(self, message: str = "Hello", *, key: str | None = None, **body: Any) -> list[Event]:
        """A streamed run, collected. Raises AssertionError when it was refused before the first event."""
        headers = body.pop("headers", {})
        response = self.post("/api/agents/stream", send_body(message, **body), key=key, headers=headers)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        return parse_events(response.text)

    def trace(self, trace_id: str) -> dict[str, Any]:
        """A stored trace, as the platform sees it."""
        response = self.get(f"/traces/{trace_id}")
        assert response.status_code == 200, response.text
        trace: dict[str, Any] = response.json()
        return trace

    def audit(self, **filters: Any) -> list[dict[str, Any]]:
        """Audit entries, oldest first; those that reading traces leaves only when asked for by their event."""
        response = self.get("/audit", params={"limit": 1000, **filters})
        assert response.status_code == 200, response.text
        entries: list[dict[str, Any]] = response.json()["entries"]
        return [entry for entry in entries[::-1] if "event_type" in filters or entry["event_type"] != "trace.read"]

    def set_budget(self, tenant_id: str = ACME, **terms: Any) -> None:
        response = self.post("/budget", {"tenant_id": tenant_id, "limit": 1.0, "period": "monthly", **terms})
        assert response.status_code == 200, response.text

    def budget(self, tenant_id: str = ACME) -> dict[str, Any]:
        budget: dict[str, Any] = self.get("/budget", params={"tenant_id": tenant_id}).json()["budget"]
        return budget


def send_body(message: str = "Hello", **fields: Any) -> dict[str, Any]:
    """A complete run request of acme's user; a field given as None is left out."""
    body = {
        "user_id": USER,
        "session_key": f"user:{USER}:support",
        "message": message,
        "task_title": "Support",
        "tenant_id": ACME,
        **fields,
    }
    return {name: value for name, value in body.items() if value is not None}


def parse_events(text: str) -> list[Event]:
    """The events of a stream; comments are skipped."""
    events = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            name = lines[0].removeprefix("event: ")
            events.append(Event(name, json.loads(lines[1].removeprefix("data: "))))
    return events


def tenant_key(tenant_id: str = ACME, scopes: str = "*", **limits: Any) -> str:
    """A new API key of the tenant."""
    made = create_api_key(
        tenant_id=tenant_id,
        name="test",
        scopes=[scope.strip() for scope in scopes.split(",")],
        actor="user:test",
        now=utc_now(),
        limits=KeyLimits(**limits),
    )
    return made.key
