"""Runs over every provider's own wire, by both endpoints: answers, tools, and everything that may go wrong.

The hosts refuse what the real ones refuse, so `errors == []` proves what the engine made them be sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from clasper.core.model_ref import PROVIDERS
from clasper.core.usage import Usage
from fakes.llm import (
    Behaviour,
    FakeProvider,
    error,
    garbage,
    half_stream,
    reply,
    reset,
    silence,
    tool_calls,
)
from tests.agents.backend import Backend
from tests.agents.hosts import ENDPOINTS, MODELS, ask, assert_costs, attempts, hosts, model_steps
from tests.agents.ledger import assert_balanced, nano
from tests.world import Server

USAGE = Usage(input=70, cached=30, output=20)
ORDER = ("orders_lookup", '{"order_id": "ORD-1002"}')
MANY = 3
"""How often a failing call is made, with the settings as they come."""


@dataclass(frozen=True)
class Host:
    """The provider under test, which all runs ask."""

    name: str
    fake: FakeProvider

    @property
    def cost(self) -> int:
        """What USAGE costs there, in nano-USD."""
        return MODELS[self.name].cost(USAGE)


@pytest.fixture(params=PROVIDERS)
def host(request: pytest.FixtureRequest, server: Server, settings: Any) -> Iterator[Host]:
    with hosts(settings, request.param) as found:
        yield Host(request.param, found[request.param])


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_plain_answer(server: Server, backend: Backend, host: Host, endpoint: str) -> None:
    server.set_budget(limit=1)
    host.fake.script(reply("All is well.", usage=USAGE))
    outcome = ask(server, endpoint)
    assert (outcome.status, outcome.body["response"]) == (200, "All is well."), outcome
    assert outcome.body["usage"] == {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    assert outcome.body["cost"]["model"] == MODELS[host.name].name
    assert_costs(server, outcome.trace_id, host.cost, response=outcome.body)
    trace = server.trace(outcome.trace_id)
    assert (trace["status"], trace["estimated"], trace["usage"]["cached_tokens"]) == ("success", False, 30)
    assert (trace["provider"], trace["model"]) == (host.name, MODELS[host.name].name)
    assert attempts(server, outcome.trace_id) == [(MODELS[host.name].name, "stop")]
    (exchange,) = host.fake.requests
    assert (exchange.model, exchange.wants_stream) == (MODELS[host.name].name, endpoint == "stream")
    assert host.fake.problems == []
    assert [message["content"] for message in backend.messages] == ["All is well."]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_tool_loop(server: Server, backend: Backend, host: Host, endpoint: str) -> None:
    backend.tools["orders:lookup"] = lambda arguments: {"order_id": arguments["order_id"], "status": "shipped"}
    server.set_budget(limit=1)
    host.fake.script(
        tool_calls(ORDER, text="Let me look.", thinking="Orders are looked up.", usage=USAGE),
        reply("It is on its way.", usage=USAGE),
    )
    outcome = ask(server, endpoint, "Where is ORD-1002?")
    assert (outcome.status, outcome.body["response"]) == (200, "It is on its way."), outcome
    assert host.fake.problems == []
    first, second = (json.dumps(exchange.body) for exchange in host.fake.requests)
    assert "orders_lookup" in first
    assert "shipped" not in first
    assert second.index("Let me look.") < second.index("shipped")
    assert [call.body["arguments"] for call in backend.hits("POST /api/tools/orders:lookup")] == [
        {"order_id": "ORD-1002"}
    ]
    trace = server.trace(outcome.trace_id)
    assert [(step["type"], step["status"]) for step in trace["steps"]] == [
        ("llm_call", "ok"),
        ("tool_call", "ok"),
        ("llm_call", "ok"),
    ]
    assert attempts(server, outcome.trace_id) == [
        (MODELS[host.name].name, "tool_calls"),
        (MODELS[host.name].name, "stop"),
    ]
    assert [nano(step["cost"]) for step in model_steps(server, outcome.trace_id)] == [host.cost] * 2
    assert_costs(server, outcome.trace_id, 2 * host.cost, response=outcome.body)
    assert [message["content"] for message in backend.messages] == ["It is on its way."]


def test_the_demo_shop_answers_any_provider(server: Server, host: Host) -> None:
    """The embedded control plane, with the real schemas of its tools."""
    host.fake.script(tool_calls(ORDER, usage=USAGE), reply("It is on its way.", usage=USAGE))
    outcome = ask(server, "send", "Where is ORD-1002?")
    assert (outcome.status, outcome.body["response"]) == (200, "It is on its way."), outcome
    assert host.fake.problems == []
    assert "order_id" in json.dumps(host.fake.requests[0].body)
    assert "ORD-1002" in json.dumps(host.fake.requests[1].body)
    assert_costs(server, outcome.trace_id, 2 * host.cost, response=outcome.body)


# --- What goes wrong -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A failure by one endpoint. `steps` are the attempts as the trace shows them; `paid`: text had arrived."""

    id: str
    script: tuple[Behaviour, ...]
    steps: tuple[str, ...]
    status: int = 502
    code: str = "provider_error"
    paid: bool = False
    timeout_ms: int = 5000
    endpoints: tuple[str, ...] = ENDPOINTS


CASES = [
    Case("reset", (reset(),) * MANY, ("connection",) * MANY),
    Case("unauthorised", (error(401),), ("auth",)),
    Case("forbidden", (error(403),), ("auth",)),
    Case("limited for ever", (error(429),) * MANY, ("rate_limited",) * MANY),
    Case("limited for too long", (error(429, headers={"Retry-After": "60"}),), ("rate_limited",)),
    Case("broken for ever", (error(500),) * MANY, ("unavailable",) * MANY),
    Case("overloaded", (error(529),) * MANY, ("unavailable",) * MANY),
    Case("garbage", (garbage(),) * MANY, ("bad_response",) * MANY, endpoints=("send",)),
    Case("garbage", (garbage(),), ("bad_response",), paid=True, endpoints=("stream",)),
    Case("half an answer", (half_stream(2),) * MANY, ("connection",) * MANY, endpoints=("send",)),
    Case("half a stream", (half_stream(2),), ("connection",), paid=True, endpoints=("stream",)),
    Case("a stream without end", (half_stream(2, abort=False),), ("connection",), paid=True, endpoints=("stream",)),
    Case("silence", (silence(3),), ("timeout",), 504, "timeout", timeout_ms=600),
    Case("silence in mid stream", (silence(3, after_chunks=2),), ("timeout",), 504, "timeout", True, 800, ("stream",)),
    Case("refusal", (reply("I will not.", finish="refusal", usage=USAGE),), ("refusal",), 502, "provider_refused"),
    Case("cut off", (reply("Once upon", finish="length", usage=USAGE),), ("length",), 502, "output_truncated"),
    Case("empty", (reply("", usage=USAGE),), ("stop",), 502, "empty_answer"),
]
PARAMETERS = [pytest.param(case, endpoint, id=f"{case.id}-{endpoint}") for case in CASES for endpoint in case.endpoints]


@pytest.mark.parametrize(("case", "endpoint"), PARAMETERS)
def test_a_failure_is_reported_and_settled(
    server: Server, backend: Backend, host: Host, settings: Any, case: Case, endpoint: str
) -> None:
    settings.CLASPER_RUN_TIMEOUT_MS = case.timeout_ms
    server.set_budget(limit=1)
    host.fake.script(*case.script)
    outcome = ask(server, endpoint)
    steps, code = case.steps, case.code
    if case.id == "refusal" and host.name == "gemini":
        # Google has no refusal: its safety filter stops the answer.
        steps, code = ("content_filter",), "content_filtered"
    assert (outcome.code, outcome.status) == (code, case.status if endpoint == "send" else 0), outcome
    assert len(host.fake.requests) == len(case.script)
    assert host.fake.problems == []
    _assert_settled(server, backend, outcome.trace_id, code)

    made = model_steps(server, outcome.trace_id)
    assert [(step["code"], step["attempt"]) for step in made] == [(each, n + 1) for n, each in enumerate(steps)]
    cost = nano(server.trace(outcome.trace_id)["total_cost"])
    if case.paid:
        assert cost > 0
    else:
        assert cost == (host.cost if len(steps) == 1 and steps[0] in ANSWERS else 0)


ANSWERS = ("stop", "length", "refusal", "content_filter")
"""How answers end that are paid for and counted, and not used."""


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_no_server_listens(server: Server, backend: Backend, host: Host, endpoint: str) -> None:
    host.fake.close()
    server.set_budget(limit=1)
    outcome = ask(server, endpoint)
    assert (outcome.code, outcome.status) == ("provider_error", 502 if endpoint == "send" else 0)
    assert attempts(server, outcome.trace_id) == [(MODELS[host.name].name, "connection")] * MANY
    _assert_settled(server, backend, outcome.trace_id, "provider_error")


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(
    ("failure", "code", "waits"),
    [
        pytest.param(error(429, headers={"Retry-After": "0.2"}), "rate_limited", 0.2, id="limited"),
        pytest.param(error(500), "unavailable", 0.0, id="broken"),
        pytest.param(reset(), "connection", 0.0, id="reset"),
        pytest.param(half_stream(0), "connection", 0.0, id="broken off before the first word"),
    ],
)
def test_a_failure_that_passes(
    server: Server, backend: Backend, host: Host, endpoint: str, failure: Behaviour, code: str, waits: float
) -> None:
    server.set_budget(limit=1)
    host.fake.script(failure, reply("Back again.", usage=USAGE))
    outcome = ask(server, endpoint)
    assert (outcome.status, outcome.body["response"]) == (200, "Back again."), outcome
    model = MODELS[host.name].name
    assert attempts(server, outcome.trace_id) == [(model, code), (model, "stop")]
    first, second = host.fake.requests
    assert second.started - first.started >= waits
    assert first.body == second.body
    assert [message["content"] for message in backend.messages] == ["Back again."]
    steps = model_steps(server, outcome.trace_id)
    assert nano(steps[1]["cost"]) == host.cost
    assert_balanced()


def _assert_settled(server: Server, backend: Backend, trace_id: str, code: str) -> None:
    """The run failed with this code; nothing was posted, and every book is closed."""
    trace = server.trace(trace_id)
    assert (trace["status"], trace["error_code"]) == ("timeout" if code == "timeout" else "error", code)
    assert trace["error"]
    assert (backend.messages, backend.documents) == ([], [])
    budget = server.budget()
    assert (nano(budget["spent"]), budget["reserved"]) == (nano(trace["total_cost"]), 0)
    assert_balanced()
    events = server.audit(trace_id=trace_id)
    assert [event["event_type"] for event in events] == ["agent.start", "agent.error"]
    assert events[-1]["details"]["code"] == code
