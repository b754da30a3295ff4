"""One sum of money, wherever it is read: answer, trace, steps, usage, budget, stats, groups, export and tables."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from clasper.core.money import NANO_PER_USD
from fakes.llm import FakeProvider, error, reply, tool_calls
from tests.agents.ledger import assert_balanced
from tests.conftest import empty_database
from tests.world import ACME, GLOBEX, Server, send_body

MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-4.1-nano")
COUNTS = st.integers(1, 3_000_000)

ran = st.fixed_dictionaries(
    {
        "endpoint": st.sampled_from(["send", "stream"]),
        "model": st.sampled_from(MODELS),
        "tool": st.booleans(),
        "fails": st.booleans(),
        "usage": st.tuples(COUNTS, COUNTS, st.integers(0, 400)),
        "tenant": st.sampled_from([ACME, ACME, GLOBEX]),
    }
)


@hypothesis_settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(runs=st.lists(ran, min_size=1, max_size=5))
def test_every_book_says_the_same(
    server: Server, backend: Any, openai: FakeProvider, runs: list[dict[str, Any]]
) -> None:
    empty_database()
    server.set_budget(limit=1_000_000)
    for run in runs:
        _run(server, openai, run)
    for tenant_id in (ACME, GLOBEX):
        assert len(set(_books(server, tenant_id).values())) == 1, _books(server, tenant_id)
        assert_balanced(tenant_id)
    both = _books(server, ACME)["traces"] + _books(server, GLOBEX)["traces"]
    assert nano(exact(server, "/traces/stats")["total_cost"]) == both


def _run(server: Server, openai: FakeProvider, run: dict[str, Any]) -> None:
    """Makes the run; an answer says the same cost as its trace."""
    prompt, cached, output = run["usage"]
    usage = {
        "prompt_tokens": prompt + cached,
        "completion_tokens": output,
        "total_tokens": prompt + cached + output,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    first = [tool_calls(("orders_lookup", '{"order_id": "ORD-1001"}'), usage=usage)] if run["tool"] else []
    openai.script(*first, error(400) if run["fails"] else reply("Fine.", usage=usage))
    body = send_body(tenant_id=run["tenant"], metadata={"model": run["model"]})
    response = server.post(f"/api/agents/{run['endpoint']}", body)
    if run["fails"]:
        return
    text = response.text
    if run["endpoint"] == "stream":
        (text,) = [part.split("data: ", 1)[1] for part in text.split("\n\n") if part.startswith("event: done")]
    answer = json.loads(text, parse_float=Decimal)
    cost = exact(server, f"/traces/{answer['trace_id']}")["cost"]["totalCost"]
    assert nano(answer["cost"]["totalCost"]) == nano(cost) > 0


def _books(server: Server, tenant_id: str) -> dict[str, int]:
    """The tenant's money in nano-USD, as each route tells it."""
    query = f"tenant_id={tenant_id}"
    rows = exact(server, f"/traces?{query}&limit=100")["traces"]
    details = [exact(server, f"/traces/{row['id']}") for row in rows]
    exported = server.get(f"/traces/export?{query}&format=csv").text
    lines = server.get(f"/traces/export?{query}&format=ndjson&include=steps").text.splitlines()
    objects = [json.loads(line, parse_float=Decimal) for line in lines]
    stats = exact(server, f"/traces/stats?{query}&group_by=day,model")
    books = {
        "traces": together(row["total_cost"] for row in rows),
        "details": together(trace["cost"]["totalCost"] for trace in details),
        "steps": together(step.get("cost", 0) for trace in details for step in trace["steps"]),
        "usage": nano(exact(server, f"/usage?{query}&since=2020-01-01")["totalCost"]),
        "stats": nano(stats["total_cost"]),
        "groups": together(group["total_cost"] for group in stats["groups"]),
        "csv": together(Decimal(row["total_cost"]) for row in csv.DictReader(io.StringIO(exported))),
        "ndjson": together(each["total_cost"] for each in objects),
        "ndjson steps": together(step.get("cost", 0) for each in objects for step in each["steps"]),
    }
    if tenant_id == ACME:
        books["budget"] = nano(exact(server, f"/budget?{query}")["budget"]["spent"])
    return books


def exact(server: Server, path: str) -> Any:
    """The JSON of an answer, its numbers as they are written."""
    response = server.get(path)
    assert response.status_code == 200, response.text
    return json.loads(response.text, parse_float=Decimal)


def together(dollars: Iterable[Decimal | int]) -> int:
    return sum(nano(each) for each in dollars)


def nano(dollars: Decimal | int) -> int:
    """Raises ValueError for an amount finer than a nano-dollar."""
    amount = Decimal(dollars) * NANO_PER_USD
    if amount != int(amount):
        raise ValueError(f"{dollars} is no whole number of nano-dollars")
    return int(amount)
