"""Personal data and secrets in everything that a route takes: none of it in any table or log, whatever is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, quote

import pytest

from tests.agents.canaries import IDS, Canaries, leaks, listen
from tests.contracts.routes import ROUTES, Route
from tests.world import ACME, Server

HEADERS = ("X-Trace-Id", "Last-Event-ID", "X-Request-Id", "User-Agent", "Referer", "X-Forwarded-For")
QUERIES = ("text", "label", "last_event_id", "cursor", "include", "start_date", "actor", "limit", "amount", "unknown")

Make = Callable[[str], Any]


@pytest.fixture
def canaries(caplog: pytest.LogCaptureFixture) -> Canaries:
    listen(caplog)
    return Canaries()


def stained(value: Any, where: str, make: Make) -> Any:
    """The value with a canary in place of each text, but for ids and what must be one of a few words."""
    if isinstance(value, dict):
        return {name: each if name in IDS else stained(each, name, make) for name, each in value.items()}
    if isinstance(value, list):
        return [stained(each, where, make) for each in value]
    return make(where) if isinstance(value, str) else value


def bodies(route: Route, canaries: Canaries) -> list[Any]:
    """Bodies of the route: as it takes them, with words and with names in all texts, with what it does not know."""
    given = route.body or {}
    beside = {canaries.text("unknown"): canaries.text("unknown value"), canaries.name("name"): [canaries.text("list")]}
    wrong = {name: canaries.text(f"{name} of the wrong type") for name in given.keys() - IDS}
    return [
        {**given, **beside},
        stained(given, "body", canaries.text),
        {**stained(given, "name", canaries.name), **beside},
        {**given, **wrong, "metadata": canaries.text("metadata")},
        [canaries.text("no object")],
    ]


def headers(canaries: Canaries) -> dict[str, str]:
    return {name: canaries.text(name) for name in HEADERS}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_whatever_a_route_receives(
    route: Route, server: Server, canaries: Canaries, caplog: pytest.LogCaptureFixture
) -> None:
    known = [(name, canaries.name(name)) for name, _ in parse_qsl(route.query) if name not in IDS]
    query = [*known, *((name, canaries.name(name)) for name in QUERIES)]
    path = f"/{route.pattern}"
    for body in bodies(route, canaries) if route.method == "POST" else [None]:
        where = path.replace("<str:trace_id>", quote(canaries.name("trace"), safe=""))
        server.request(route.method, where, json=body, headers=headers(canaries))
        route.call(server, json=body, headers=headers(canaries))
        server.request(route.method, route.path, params=query, json=body, headers=headers(canaries))
    assert leaks(canaries, caplog) == []


@pytest.mark.parametrize("route", [route for route in ROUTES if route.method == "POST"], ids=lambda route: route.name)
def test_bodies_that_are_no_json(
    route: Route, server: Server, canaries: Canaries, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor in a form, nor cut off, nor of a kind that nobody reads."""
    text = canaries.text("cut off")
    for kind, content in (
        ("application/json", f'{{"message": "{text}'),
        ("application/x-www-form-urlencoded", f"message={quote(text)}"),
        (canaries.name("type"), text),
    ):
        response = route.call(server, content=content.encode(), headers={"Content-Type": kind})
        assert 400 <= response.status_code < 500, response.text
    assert leaks(canaries, caplog) == []


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_credentials_and_names_of_hosts(
    route: Route, server: Server, canaries: Canaries, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever sends his own secrets as a credential, or mistakes a header for another, finds them nowhere."""
    secret = canaries.text("credential", "key").rpartition(" ")[2]
    token = canaries.text("credential", "token").rpartition(" ")[2]
    for given in (
        {"Authorization": f"Bearer {secret}"},
        {"Authorization": f"Basic {token}"},
        {"Authorization": token, "X-Agent-Daemon-Key": secret},
        {"Cookie": f"session={token}", "Origin": canaries.name("origin"), "Host": canaries.name("host")},
    ):
        route.call(server, key="", headers=given)
    assert leaks(canaries, caplog) == []


FULL_BODIES: dict[str, Callable[[Make], dict[str, Any]]] = {
    "risk/score": lambda make: {
        "tool_names": [make("tool"), make("other tool")],
        "custom_flags": [make("flag")],
        "model": make("model"),
        "custom": {make("custom"): make("custom value")},
    },
    "retention/policy": lambda make: {"sampling_strategy": make("strategy"), "storage_mode": make("mode")},
    "retention/enforce": lambda make: {"dry_run": make("dry run"), "reason": make("reason")},
    "cost/forecast": lambda make: {"model": make("model"), "provider": make("provider"), "estimated_input_tokens": 1},
    "budget": lambda make: {"limit": make("limit"), "period": make("period")},
}
"""Bodies with texts in fields that the table of routes leaves out."""


@pytest.mark.parametrize("pattern", FULL_BODIES)
def test_texts_in_every_field(
    pattern: str, server: Server, canaries: Canaries, caplog: pytest.LogCaptureFixture
) -> None:
    for make in (canaries.name, canaries.text):
        response = server.post(f"/{pattern}", {"tenant_id": ACME, **FULL_BODIES[pattern](make)})
        assert response.status_code in (200, 400), response.text
    assert leaks(canaries, caplog) == []
