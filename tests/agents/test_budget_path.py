"""Reserve and settle, seen from outside: what is refused, what is made to fit, and that the limit holds under load."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from apps.governance.models import Budget
from clasper.core.clock import utc_now
from fakes.llm import FakeProvider, reply
from tests.agents.backend import Backend
from tests.agents.ledger import assert_balanced, held, nano
from tests.world import ACME, GLOBEX, Server, send_body, tenant_key

USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
PRICED = 100 * 150 + 20 * 600


def output_limit(openai: FakeProvider, number: int = -1) -> int:
    body = openai.requests[number].body
    return int(body.get("max_completion_tokens") or body["max_tokens"])


@pytest.mark.parametrize("path", ["send", "stream"])
def test_a_run_that_the_budget_does_not_cover_is_refused(
    server: Server, backend: Backend, openai: FakeProvider, path: str
) -> None:
    server.set_budget(limit=0.00001)
    response = server.post(f"/api/agents/{path}", send_body("Hello"))
    assert (response.status_code, response.json()["code"]) == (402, "budget_exceeded")
    assert response.json()["details"] == {"available": 0.00001, "hard_limit": 0.00001}
    trace = server.trace(response.json()["trace_id"])
    assert (trace["status"], trace["error_code"], trace["steps"]) == ("error", "budget_exceeded", [])
    assert trace["input"]["message"] == "Hello"
    (entry,) = [entry for entry in server.audit() if entry["event_type"] == "budget.exceeded"]
    assert entry["trace_id"] == trace["id"]
    assert (backend.calls, openai.requests) == ([], [])
    assert_balanced()


def test_the_output_is_lowered_to_what_fits(server: Server, backend: Backend, openai: FakeProvider) -> None:
    server.send("Hello")
    assert output_limit(openai) == 4096
    server.set_budget(limit=0.0012)
    spent = nano(server.budget()["spent"])
    assert server.send("Hello").status_code == 200
    assert 64 <= output_limit(openai) < 2000
    assert nano(server.budget()["spent"]) > spent
    assert_balanced()


def test_a_credential_limits_the_output(server: Server, backend: Backend, openai: FakeProvider) -> None:
    assert server.send("Hello", key=tenant_key(ACME, max_output_tokens=77)).status_code == 200
    assert output_limit(openai) == 77


def test_the_whole_hold_is_given_back(server: Server, backend: Backend, openai: FakeProvider) -> None:
    server.set_budget(limit=1)
    openai.default = reply("Fine.", usage=USAGE)
    for n in range(1, 4):
        body = server.send("Hello").json()
        assert nano(body["cost"]["totalCost"]) == PRICED
        budget = server.budget()
        assert (nano(budget["spent"]), budget["reserved"]) == (n * PRICED, 0)
    assert_balanced()


def test_money_is_held_while_the_model_thinks(server: Server, backend: Backend, openai: FakeProvider) -> None:
    server.set_budget(limit=1)
    openai.default = reply("Fine.", delay=0.3)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(server.send, "Hello")
        while not openai.requests:
            threading.Event().wait(0.01)
        reserved = nano(server.budget()["reserved"])
        assert answer.result().status_code == 200
    assert 4096 * 600 < reserved < 5_000_000
    assert held() == 0


def test_a_model_of_unknown_price_needs_permission(server: Server, backend: Backend, openai: FakeProvider) -> None:
    unknown: dict[str, Any] = {"metadata": {"model": "house-blend-7b"}}
    assert server.send("Hello", **unknown).status_code == 200  # nobody counts without a budget
    server.set_budget(limit=10)
    response = server.send("Hello", **unknown)
    assert (response.status_code, response.json()["code"]) == (402, "unpriced_model")
    assert response.json()["details"]["model"] == "openai/house-blend-7b"
    assert server.trace(response.json()["trace_id"])["error_code"] == "unpriced_model"
    assert len(openai.requests) == 1
    server.set_budget(limit=10, allow_unpriced=True)
    openai.script(reply("Fine.", usage=USAGE))
    before = nano(server.budget()["spent"])
    body = server.send("Hello", **unknown).json()
    trace = server.trace(body["trace_id"])
    assert trace["estimated"] is True
    assert nano(trace["total_cost"]) == 100 * 150_000 + 20 * 600_000
    assert nano(server.budget()["spent"]) - before == nano(trace["total_cost"])
    assert_balanced()


def test_an_unknown_price_is_named_even_when_its_ceiling_does_not_fit(
    server: Server, backend: Backend, openai: FakeProvider
) -> None:
    """More money would not help; naming the model does."""
    server.set_budget(limit=0.01)
    response = server.send("Hello", metadata={"model": "house-blend-7b"})
    assert (response.status_code, response.json()["code"]) == (402, "unpriced_model")
    assert held() == 0


def test_a_budget_that_only_watches_refuses_nothing(server: Server, backend: Backend, openai: FakeProvider) -> None:
    server.set_budget(limit=0.000001, hard_limit=None)
    openai.default = reply("Fine.", usage=USAGE)
    assert server.send("Hello").status_code == 200
    assert server.send("Hello").status_code == 200
    warnings = [entry for entry in server.audit() if entry["event_type"] == "budget.warning"]
    assert len(warnings) == 1
    assert nano(server.budget()["spent"]) == 2 * PRICED
    assert_balanced()


def test_the_soft_limit_warns_once(server: Server, backend: Backend, openai: FakeProvider) -> None:
    server.set_budget(limit=1, soft_limit=2.5 * PRICED / 10**9)
    openai.default = reply("Fine.", usage=USAGE)
    seen = []
    for _ in range(5):
        body = server.send("Hello").json()
        events = [entry["event_type"] for entry in server.audit(trace_id=body["trace_id"])]
        seen.append("budget.warning" in events)
    assert seen == [False, False, True, False, False]


def test_a_tenants_budget_is_its_own(server: Server, backend: Backend, openai: FakeProvider) -> None:
    server.set_budget(ACME, limit=0.000000001)
    server.set_budget(GLOBEX, limit=1)
    assert server.send("Hello").status_code == 402
    assert server.send("Hello", tenant_id=GLOBEX).status_code == 200
    assert_balanced(ACME)
    assert_balanced(GLOBEX)


class Watcher:
    """Looks at the budget's row all the time and remembers the most that was committed."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._stop = threading.Event()
        self.most = 0
        self.looks = 0
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        from django.db import connection

        while not self._stop.wait(0.002):
            row = Budget.objects.values_list("spent", "reserved").get(tenant_id=ACME)
            self.most = max(self.most, sum(row))
            self.looks += 1
        connection.close()

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()


def test_forty_at_once_never_exceed_the_limit(server: Server, backend: Backend, openai: FakeProvider) -> None:
    """The limit has room for about ten runs' real cost; their worst cases alone would not let five in at once."""
    usage = {"prompt_tokens": 400, "completion_tokens": 300, "total_tokens": 700}
    cost = 400 * 150 + 300 * 600
    limit = 10 * cost
    server.set_budget(limit=limit / 10**9)
    openai.default = reply("Fine.", usage=usage, delay=0.02)
    with Watcher(limit) as watcher, ThreadPoolExecutor(40) as pool:
        responses = list(pool.map(lambda n: server.send(f"Number {n}", task_title=f"Task {n % 3}"), range(40)))
    codes = {response.status_code for response in responses}
    assert codes == {200, 402}
    good = [response for response in responses if response.status_code == 200]
    assert watcher.looks > 10
    assert 0 < watcher.most <= limit
    assert nano(server.budget()["spent"]) == len(good) * cost <= limit
    assert len(openai.requests) == len(backend.messages) == len(good)
    assert server.budget()["reserved"] == 0
    assert_balanced()


def test_usage_counts_what_was_spent_today(server: Server, backend: Backend, openai: FakeProvider) -> None:
    openai.default = reply("Fine.", usage=USAGE)
    for tenant in (ACME, ACME, GLOBEX):
        server.send("Hello", tenant_id=tenant)
    usage = server.get("/usage", params={"tenant_id": ACME}).json()
    assert (usage["requestCount"], usage["totalInputTokens"], usage["totalOutputTokens"]) == (2, 200, 40)
    assert nano(usage["totalCost"]) == 2 * PRICED
    assert server.get("/usage").json()["requestCount"] == 3
    later = {"tenant_id": ACME, "since": utc_now().replace(year=utc_now().year + 1).isoformat()}
    assert server.get("/usage", params=later).json()["requestCount"] == 0
