"""No ungoverned way to a model: every run route, once for each thing that governs it, and who may import what.

Each cell of the matrix is a real request that would end otherwise if the route went round that part.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import grimp
import pytest

from apps.agents.urls import run_routes
from fakes.llm import FakeProvider, reply
from tests.world import ACME, GLOBEX, Server, parse_events, send_body, tenant_key

ROOT = Path(__file__).resolve().parents[2]

PRIVATE = "mara.lindqvist@example.com"
ANSWER = '"Hello from the fake provider."'

Turns = list[dict[str, Any]]


def talk(message: str, earlier: Turns) -> dict[str, Any]:
    return send_body(message, messages=earlier)


def talk_streamed(message: str, earlier: Turns) -> dict[str, Any]:
    return send_body(message, messages=earlier, stream=True)


def task(message: str, earlier: Turns) -> dict[str, Any]:
    return {"prompt": message, "input": earlier, "tenant_id": ACME}


def compact(message: str, earlier: Turns) -> dict[str, Any]:
    turns = [*earlier, {"role": "user", "content": message}]
    return {"messages": turns, "keep_recent": 0, "tenant_id": ACME}


@dataclass(frozen=True)
class Way:
    """A way to reach a model: the route, and the body that brings it a message and earlier turns.

    `exempt` says which parts have nothing to govern here, and why; that the reason holds is tested instead.
    """

    route: str
    body: Callable[[str, Turns], dict[str, Any]]
    exempt: dict[str, str] = field(default_factory=dict)


OWN_PROMPT = {"prompt override": "it has a system prompt of Clasper's own, which nobody can replace"}

WAYS: dict[str, Way] = {
    "send": Way("api/agents/send", talk),
    "send, streamed": Way("api/agents/send", talk_streamed),
    "stream": Way("api/agents/stream", talk),
    "llm-task": Way("llm-task", task, exempt=OWN_PROMPT),
    "compact": Way("compact", compact, exempt=OWN_PROMPT),
}
"""Every way to reach a model."""


@dataclass(frozen=True)
class Outcome:
    """How a request ended; `text` is the whole answer."""

    status: int
    code: str
    trace_id: str
    text: str


@dataclass
class Caller:
    """Goes one of the ways to the model `openai`, whose answers are JSON because a task takes nothing else."""

    server: Server
    openai: FakeProvider
    way: Way

    def __call__(
        self, message: str = "Hello", *, key: str | None = None, earlier: Turns | None = None, **fields: Any
    ) -> Outcome:
        body = {**self.way.body(message, earlier or []), **fields}
        sent = {name: value for name, value in body.items() if value is not None}
        response = self.server.post(f"/{self.way.route}", sent, key=key)
        if response.headers["content-type"].startswith("text/event-stream"):
            last = parse_events(response.text)[-1]
            body = last.data
            assert last.name == ("error" if "code" in body else "done")
        else:
            body = response.json()
        return Outcome(response.status_code, body.get("code", ""), body.get("trace_id", ""), response.text)

    @property
    def reached(self) -> int:
        """How often the model was asked."""
        return len(self.openai.requests)


# --- What governs a run --------------------------------------------------------------------------------------------


def identity(call: Caller) -> None:
    """Nobody is answered who does not say who it is."""
    assert (call(key="").status, call(key="clk_wrong").status) == (403, 401)
    assert call.reached == 0
    assert call(key=tenant_key(ACME)).status == 200
    assert call.reached == 1


def tenant(call: Caller) -> None:
    """A key acts for its own tenant only, and what it does is its own."""
    key = tenant_key(GLOBEX)
    assert (call(key=key).status, call(key=key).code) == (403, "permission_denied")
    assert call.reached == 0
    own = call(key=key, tenant_id=None)
    assert call.server.trace(own.trace_id)["tenant_id"] == GLOBEX


def permission(call: Caller) -> None:
    """The scope and the model must be permitted."""
    assert call(key=tenant_key(ACME, "traces:read,governance:read")).code == "permission_denied"
    assert call(key=tenant_key(ACME, allowed_models=["gpt-4o"])).code == "permission_denied"
    assert call.reached == 0
    assert call(key=tenant_key(ACME, "agents:run")).status == 200


def prompt_override(call: Caller) -> None:
    """Replacing the system prompt must be permitted; where it cannot be replaced, the wish reaches nobody."""
    outcome = call(key=tenant_key(ACME, "agents:run"), metadata={"system_prompt": "Obey."})
    if "prompt override" in call.way.exempt:
        assert outcome.status == 200
        assert "Obey." not in json.dumps(call.openai.requests[0].body)
    else:
        assert outcome.code == "permission_denied"
        assert call.reached == 0


def budget(call: Caller) -> None:
    """A run that the budget does not hold does not begin; one that it holds is paid for."""
    call.server.set_budget(limit=0.000_000_001)
    assert (call().status, call().code) == (402, "budget_exceeded")
    assert call.reached == 0
    call.server.set_budget(limit=1.0)
    spent = call.server.trace(call().trace_id)["cost"]["totalCost"]
    assert spent > 0
    after = call.server.budget()
    assert (after["spent"], after["reserved"]) == (spent, 0)


def redaction(call: Caller) -> None:
    """The model reads the original; what is stored does not hold it."""
    call.openai.script(reply(json.dumps(f"I wrote to {PRIVATE}.")))
    outcome = call(f"Write to {PRIVATE}.", earlier=[{"role": "user", "content": f"I am {PRIVATE}."}])
    assert PRIVATE in str(call.openai.requests[0].body)
    stored = call.server.get(f"/traces/{outcome.trace_id}").text + call.server.get("/audit").text
    assert PRIVATE not in stored
    assert call.server.trace(outcome.trace_id)["redactions"] == 3


def trace(call: Caller) -> None:
    """The run is kept, with the call to the model."""
    found = call.server.trace(call("Keep this").trace_id)
    assert (found["status"], found["output"]["response"]) == ("success", ANSWER)
    assert "Keep this" in found["input"]["message"]
    assert [step["model"] for step in found["steps"] if step["type"] == "llm_call"] == ["gpt-4o-mini"]
    assert found["risk_level"]


def audit(call: Caller) -> None:
    """The run's beginning and end stand in the tenant's chain."""
    outcome = call()
    entries = call.server.audit(tenant_id=ACME)
    assert [(entry["event_type"], entry["trace_id"]) for entry in entries] == [
        ("agent.start", outcome.trace_id),
        ("agent.complete", outcome.trace_id),
    ]
    assert call.server.get("/audit/verify", params={"tenant_id": ACME}).json()["valid"] is True


GOVERNANCE: dict[str, Callable[[Caller], None]] = {
    each.__name__.replace("_", " "): each
    for each in (identity, tenant, permission, prompt_override, budget, redaction, trace, audit)
}


@pytest.mark.parametrize("governed_by", GOVERNANCE)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_a_model_is_governed(way: str, governed_by: str, server: Server, openai: FakeProvider) -> None:
    openai.default = reply(ANSWER)
    GOVERNANCE[governed_by](Caller(server, openai, WAYS[way]))


ELSEWHERE = {"traces/<str:trace_id>/replay"}
"""Replays repeat a run that must be there first; the same parts are proved in tests/agents/test_replay.py."""


def test_the_matrix_has_every_run_route() -> None:
    assert {way.route for way in WAYS.values()} | ELSEWHERE == {route for route, _ in run_routes}
    assert {part for way in WAYS.values() for part in way.exempt} <= GOVERNANCE.keys()


# --- Who may import what -------------------------------------------------------------------------------------------


@cache
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("clasper", "apps", include_external_packages=True)


def importers_of(module: str) -> set[str]:
    """Who imports the module or anything in it, from outside."""
    inside = {module} | imports().find_descendants(module)
    found = {each for part in inside for each in imports().find_modules_that_directly_import(part)}
    return found - inside


def test_only_the_engine_imports_the_models() -> None:
    importers = importers_of("clasper.gateways.llm")
    assert importers
    assert {each for each in importers if not each.startswith("apps.agents.engine")} == set()


@pytest.mark.parametrize("library", ["aiohttp", "requests", "urllib3"])
def test_only_gateways_import_http_clients(library: str) -> None:
    if library in imports().modules:
        found = imports().find_modules_that_directly_import(library)
        assert {each for each in found if not each.startswith("clasper.gateways")} == set()


def test_only_the_demo_imports_httpx() -> None:
    """It talks to the server from outside, as a backend would."""
    assert imports().find_modules_that_directly_import("httpx") <= {"clasper.demo", "clasper.management.commands.demo"}


OPENERS = {"ClientSession", "session", "guarded_session", "urlopen", "create_connection", "open_connection"}
"""Names that open connections to the outside."""


def opened() -> Iterator[tuple[str, str]]:
    """Where one of OPENERS is imported or called: (module, name)."""
    for package in ("clasper", "apps"):
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom):
                    yield from ((module, each.name) for each in node.names if each.name in OPENERS)
                elif isinstance(node, ast.Call):
                    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                    if name in OPENERS:
                        yield module, name


def test_connections_are_opened_in_gateways_only() -> None:
    found = list(opened())
    assert found
    assert [each for each in found if not each[0].startswith("clasper.gateways.")] == []
