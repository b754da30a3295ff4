"""A provider in trouble: circuits, crowds, silence."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from clasper.core.usage import Usage
from fakes.llm import Exchange, FakeProvider, error, reply, reset, silence
from tests.agents.backend import Backend
from tests.agents.hosts import ENDPOINTS, MODELS, ask, assert_costs, attempts, hosts
from tests.agents.ledger import assert_balanced, nano
from tests.world import ACME, GLOBEX, Server, tenant_key

USAGE = Usage(input=100, output=20)
MINI = "gpt-4o-mini"
HAIKU = "claude-haiku-4-5"
GOOD = reply("Fine.", usage=USAGE)


@pytest.fixture
def pair(server: Server, backend: Backend, settings: Any) -> Iterator[dict[str, FakeProvider]]:
    """openai, the default, and anthropic; both answer well."""
    with hosts(settings, "openai", "anthropic") as found:
        for fake in found.values():
            fake.default = GOOD
        yield found


@dataclass
class Crowd:
    """A host's behaviour that holds every request until it is released, and counts who is there at the same time.

    Requests are counted by the words of `names` that stand in them.
    """

    names: tuple[str, ...] = ()
    most: dict[str, int] = field(default_factory=dict)
    released: bool = False
    _here: dict[str, int] = field(default_factory=dict)

    async def __call__(self, exchange: Exchange) -> web.StreamResponse:
        sent = json.dumps(exchange.body)
        counted = ["all", *(name for name in self.names if name in sent)]
        for name in counted:
            self._here[name] = self._here.get(name, 0) + 1
            self.most[name] = max(self.most.get(name, 0), self._here[name])
        ends = time.monotonic() + 10
        while not self.released and time.monotonic() < ends:  # noqa: ASYNC110  released from another thread
            await asyncio.sleep(0.01)
        for name in counted:
            self._here[name] -= 1
        return await GOOD(exchange)


def wait_until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.01)


# --- The circuit -----------------------------------------------------------------------------------------------------


def _break(server: Server, settings: Any, fake: FakeProvider, *, cooldown_ms: int = 60_000) -> None:
    """Opens the circuit of the default provider by two failures of one run."""
    settings.CLASPER_CIRCUIT_FAILURES = 2
    settings.CLASPER_CIRCUIT_COOLDOWN_MS = cooldown_ms
    settings.CLASPER_RETRY_ATTEMPTS = 2
    fake.script(error(500), reset())
    outcome = ask(server, "send")
    assert (outcome.status, outcome.code) == (502, "provider_error"), outcome
    assert len(fake.requests) == 2


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_circuit_opens(
    server: Server, backend: Backend, pair: dict[str, FakeProvider], settings: Any, endpoint: str
) -> None:
    server.set_budget(limit=1)
    _break(server, settings, pair["openai"])
    outcome = ask(server, endpoint)
    assert (outcome.status, outcome.code) == (503 if endpoint == "send" else 0, "provider_circuit_open"), outcome
    if endpoint == "send":
        assert 1 <= int(outcome.headers["retry-after"]) <= 60
    assert outcome.body["details"]["reason"] == "circuit_open"
    assert attempts(server, outcome.trace_id) == [(MINI, "circuit_open")]
    assert len(pair["openai"].requests) == 2
    assert backend.messages == []
    events = server.audit(trace_id=outcome.trace_id)
    assert [(each["event_type"], each["details"].get("code")) for each in events] == [
        ("agent.start", None),
        ("agent.error", "provider_circuit_open"),
    ]
    assert_costs(server, outcome.trace_id, 0)


def test_a_circuit_opens_in_the_middle_of_a_run(server: Server, pair: dict[str, FakeProvider], settings: Any) -> None:
    settings.CLASPER_CIRCUIT_FAILURES = 2
    pair["openai"].default = error(503)
    outcome = ask(server, "send")
    assert (outcome.status, outcome.code) == (503, "provider_circuit_open")
    assert [code for _, code in attempts(server, outcome.trace_id)] == ["unavailable", "unavailable", "circuit_open"]
    assert len(pair["openai"].requests) == 2
    assert_balanced()


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_fallback_answers_while_the_circuit_is_open(
    server: Server, pair: dict[str, FakeProvider], settings: Any, endpoint: str
) -> None:
    _break(server, settings, pair["openai"])
    settings.LLM_MODEL_FALLBACK = f"anthropic/{HAIKU}"
    for _ in range(2):
        outcome = ask(server, endpoint)
        assert (outcome.status, outcome.body["response"]) == (200, "Fine."), outcome
        assert attempts(server, outcome.trace_id) == [(MINI, "circuit_open"), (HAIKU, "stop")]
    assert len(pair["openai"].requests) == 2
    assert_balanced()


def test_another_provider_is_not_concerned(server: Server, pair: dict[str, FakeProvider], settings: Any) -> None:
    _break(server, settings, pair["openai"])
    assert ask(server, "send", metadata={"model": f"anthropic/{HAIKU}"}).status == 200


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429])
def test_refusals_open_no_circuit(server: Server, pair: dict[str, FakeProvider], settings: Any, status: int) -> None:
    settings.CLASPER_CIRCUIT_FAILURES = 1
    settings.CLASPER_RETRY_ATTEMPTS = 1
    pair["openai"].script(error(status), error(status))
    for _ in range(2):
        assert ask(server, "send").code != "provider_circuit_open"
    assert ask(server, "send").status == 200


def test_exactly_one_call_tries_whether_the_provider_is_well_again(
    server: Server, pair: dict[str, FakeProvider], settings: Any
) -> None:
    fake = pair["openai"]
    _break(server, settings, fake, cooldown_ms=200)
    fake.default = crowd = Crowd()
    time.sleep(0.25)
    with ThreadPoolExecutor(8) as pool:
        burst = [pool.submit(ask, server, "send") for _ in range(6)]
        wait_until(lambda: sum(each.done() for each in burst) == 5)
        assert len(fake.requests) == 3
        refused = [each.result() for each in burst if each.done()]
        assert [(each.status, each.code) for each in refused] == [(503, "provider_circuit_open")] * 5
        crowd.released = True
        assert sorted(each.result().status for each in burst) == [200, *[503] * 5]
        fake.default = crowd = Crowd()
        again = [pool.submit(ask, server, "send") for _ in range(6)]
        wait_until(lambda: len(fake.requests) == 9)
        crowd.released = True
        assert [each.result().status for each in again] == [200] * 6
    assert_balanced()


def test_a_probe_that_fails_means_another_cooldown(
    server: Server, pair: dict[str, FakeProvider], settings: Any
) -> None:
    fake = pair["openai"]
    _break(server, settings, fake, cooldown_ms=200)
    time.sleep(0.25)
    settings.CLASPER_CIRCUIT_COOLDOWN_MS = 60_000
    fake.script(error(500))
    first = ask(server, "send")
    assert [code for _, code in attempts(server, first.trace_id)] == ["unavailable", "circuit_open"]
    assert ask(server, "send").code == "provider_circuit_open"
    assert len(fake.requests) == 3


# --- Crowds ----------------------------------------------------------------------------------------------------------


def test_a_tenants_calls_wait_their_turn(server: Server, pair: dict[str, FakeProvider], settings: Any) -> None:
    settings.CLASPER_TENANT_CONCURRENCY = 2
    server.set_budget(limit=1)
    fake = pair["openai"]
    fake.default = crowd = Crowd()
    with ThreadPoolExecutor(7) as pool:
        under_way = [pool.submit(ask, server, ENDPOINTS[n % 2]) for n in range(7)]
        wait_until(lambda: len(fake.requests) == 2)
        time.sleep(0.1)
        assert len(fake.requests) == 2
        crowd.released = True
        assert [each.result().status for each in under_way] == [200] * 7
    assert (len(fake.requests), crowd.most["all"]) == (7, 2)
    assert nano(server.budget()["spent"]) == 7 * MODELS["openai"].cost(USAGE)
    assert_balanced()


def test_a_provider_takes_so_many_of_all_tenants(server: Server, pair: dict[str, FakeProvider], settings: Any) -> None:
    settings.CLASPER_TENANT_CONCURRENCY = 2
    settings.CLASPER_PROVIDER_CONCURRENCY = 3
    fake = pair["openai"]
    fake.default = crowd = Crowd((ACME, GLOBEX))
    names = (ACME, GLOBEX) * 4
    keys = {name: tenant_key(name) for name in (ACME, GLOBEX)}
    with ThreadPoolExecutor(len(names)) as pool:
        under_way = [
            pool.submit(ask, server, "send", f"I am of {name}", key=keys[name], tenant_id=name) for name in names
        ]
        wait_until(lambda: len(fake.requests) == 3)
        time.sleep(0.1)
        assert len(fake.requests) == 3
        crowd.released = True
        assert [each.result().status for each in under_way] == [200] * len(names)
    assert len(fake.requests) == len(names)
    assert crowd.most["all"] == 3
    assert max(crowd.most[ACME], crowd.most[GLOBEX]) == 2
    for name in (ACME, GLOBEX):
        assert_balanced(name)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_run_that_waits_too_long_is_refused(
    server: Server, backend: Backend, pair: dict[str, FakeProvider], settings: Any, endpoint: str
) -> None:
    settings.CLASPER_TENANT_CONCURRENCY = 1
    server.set_budget(limit=1)
    fake = pair["openai"]
    fake.default = crowd = Crowd()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, server, "send")
        wait_until(lambda: len(fake.requests) == 1)
        settings.CLASPER_RUN_TIMEOUT_MS = 600
        late = ask(server, endpoint)
        crowd.released = True
        assert first.result().status == 200
    assert (late.status, late.code) == (503 if endpoint == "send" else 0, "at_capacity"), late
    if endpoint == "send":
        assert int(late.headers["retry-after"]) >= 1
    assert attempts(server, late.trace_id) == [(MINI, "at_capacity")]
    assert len(fake.requests) == 1
    assert len(backend.messages) == 1
    assert nano(server.trace(late.trace_id)["total_cost"]) == 0
    assert_balanced()


# --- Silence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_silent_provider_is_left_for_the_fallback(
    server: Server, pair: dict[str, FakeProvider], settings: Any, endpoint: str
) -> None:
    settings.CLASPER_PROVIDER_TIMEOUTS_MS = {"openai": 200}
    settings.LLM_MODEL_FALLBACK = f"anthropic/{HAIKU}"
    pair["openai"].default = silence(5)
    pair["anthropic"].default = reply("Fine.", usage=USAGE, delay=0.05)
    began = time.monotonic()
    outcome = ask(server, endpoint)
    assert (outcome.status, outcome.body["response"]) == (200, "Fine."), outcome
    assert time.monotonic() - began < 4
    assert attempts(server, outcome.trace_id) == [*((MINI, "timeout"),) * 3, (HAIKU, "stop")]
    assert_costs(server, outcome.trace_id, MODELS["anthropic"].cost(USAGE), response=outcome.body)


def test_a_provider_without_a_timeout_of_its_own_has_the_runs(
    server: Server, pair: dict[str, FakeProvider], settings: Any
) -> None:
    settings.CLASPER_PROVIDER_TIMEOUTS_MS = {"anthropic": 50}
    pair["openai"].script(reply("Slowly.", delay=0.2))
    assert ask(server, "send").body["response"] == "Slowly."
