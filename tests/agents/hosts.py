"""Every provider's host as runs meet it: configured, priced, and asked by either endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from clasper.core.usage import Usage
from fakes.llm import WIRE_FORMATS, FakeProvider
from tests.agents.ledger import assert_balanced, nano
from tests.world import ACME, Server, parse_events, send_body

ENDPOINTS = ("send", "stream")


@dataclass(frozen=True)
class Model:
    """A model and what a token of it costs, in nano-USD: a dollar a million tokens is 1,000."""

    name: str
    input: int
    cached: int
    cache_write: int
    output: int

    def cost(self, usage: Usage) -> int:
        prompt = usage.input * self.input + usage.cached * self.cached + usage.cache_write * self.cache_write
        return prompt + usage.output * self.output


MODELS: Mapping[str, Model] = {
    "openai": Model("gpt-4o-mini", 150, 75, 150, 600),
    "anthropic": Model("claude-haiku-4-5", 1000, 100, 1250, 5000),
    "gemini": Model("gemini-2.5-flash", 300, 30, 300, 2500),
    "xai": Model("grok-3-mini", 300, 75, 300, 500),
    "groq": Model("llama-3.1-8b-instant", 50, 50, 50, 80),
    "mistral": Model("mistral-small-2603", 150, 15, 150, 600),
    "openrouter": Model("openai/gpt-4o-mini", 150, 75, 150, 600),
}
"""A priced model of each provider; a bucket without a price of its own costs what input does."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended, in the same words for both endpoints; the status of a stream is 200 or, when it failed after it
    began, 0."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str]
    events: tuple[str, ...] = ()

    @property
    def code(self) -> str:
        return str(self.body.get("code", ""))

    @property
    def trace_id(self) -> str:
        return str(self.body["trace_id"])


def ask(server: Server, endpoint: str, message: str = "Hello", *, key: str | None = None, **body: Any) -> Outcome:
    """A run by `send` or by `stream`."""
    response = server.post(f"/api/agents/{endpoint}", send_body(message, **body), key=key)
    if endpoint == "send" or response.status_code != 200:
        return Outcome(response.status_code, response.json(), response.headers)
    events = parse_events(response.text)
    status = 200 if events[-1].name == "done" else 0
    return Outcome(status, events[-1].data, response.headers, tuple(event.name for event in events))


@contextmanager
def hosts(settings: Any, *names: str) -> Iterator[dict[str, FakeProvider]]:
    """Fake hosts of these providers, each configured with a key and its address; the first is the default provider and
    its MODELS entry the default model."""
    with ExitStack() as stack:
        found = {name: FakeProvider.start(WIRE_FORMATS[name]) for name in names}
        for name, fake in found.items():
            stack.callback(fake.close)
            setattr(settings, f"{name.upper()}_API_KEY", f"key-of-{name}")
            setattr(settings, f"{name.upper()}_BASE_URL", fake.url)
        settings.LLM_PROVIDER = names[0]
        settings.LLM_MODEL_DEFAULT = f"{names[0]}/{MODELS[names[0]].name}"
        yield found


def model_steps(server: Server, trace_id: str) -> list[dict[str, Any]]:
    return [step for step in server.trace(trace_id)["steps"] if step["type"] == "llm_call"]


def attempts(server: Server, trace_id: str) -> list[tuple[str, str]]:
    """The model calls of a run as (model, code)."""
    return [(step["model"], step["code"]) for step in model_steps(server, trace_id)]


def assert_costs(server: Server, trace_id: str, expected: int, *, response: dict[str, Any] | None = None) -> None:
    """The run is the tenant's only one, and everybody says that it cost this many nano-USD: `response`, the trace and
    its steps, `/usage` and the budget, if there is one."""
    trace = server.trace(trace_id)
    assert nano(trace["total_cost"]) == expected
    assert sum(nano(step.get("cost") or 0) for step in trace["steps"]) == expected
    if response is not None:
        cost = response["cost"]
        assert nano(cost["totalCost"]) == expected
        assert nano(cost["inputCost"]) + nano(cost["outputCost"]) == expected
    assert nano(server.get("/usage", params={"tenant_id": ACME}).json()["totalCost"]) == expected
    budget = server.get("/budget", params={"tenant_id": ACME})
    if budget.status_code == 200:
        assert nano(budget.json()["budget"]["spent"]) == expected
        assert budget.json()["budget"]["reserved"] == 0
    assert_balanced()
