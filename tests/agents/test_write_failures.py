"""A database that refuses a write in the middle of a run: what was paid for is booked all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection

from fakes.llm import FakeProvider, reply, tool_calls
from tests.agents.backend import Backend
from tests.agents.ledger import assert_balanced, nano
from tests.world import Server, send_body

USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
PRICED = 100 * 150 + 20 * 600


@pytest.fixture
def refusing(server: Server) -> Iterator[None]:
    """Steps of runs under way are refused; those that a settlement writes are not."""
    under_way = "(SELECT status FROM traces WHERE id = NEW.trace_id) = 'running'"
    if connection.vendor == "sqlite":
        when = f"BEFORE INSERT ON trace_steps WHEN {under_way}"
        make = [f"CREATE TRIGGER refuse_steps {when} BEGIN SELECT RAISE(ABORT, 'refused'); END"]
        undo = ["DROP TRIGGER refuse_steps"]
    else:
        body = f"$$ BEGIN IF {under_way} THEN RAISE EXCEPTION 'refused'; END IF; RETURN NEW; END $$"
        make = [
            f"CREATE FUNCTION refuse_steps() RETURNS trigger LANGUAGE plpgsql AS {body}",
            "CREATE TRIGGER refuse_steps BEFORE INSERT ON trace_steps FOR EACH ROW EXECUTE FUNCTION refuse_steps()",
        ]
        undo = ["DROP TRIGGER refuse_steps ON trace_steps", "DROP FUNCTION refuse_steps()"]
    with connection.cursor() as cursor:
        for statement in make:
            cursor.execute(statement)
    yield
    with connection.cursor() as cursor:
        for statement in undo:
            cursor.execute(statement)


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize("endpoint", ["send", "stream"])
def test_a_call_whose_checkpoint_is_refused_is_booked(
    server: Server, backend: Backend, openai: FakeProvider, endpoint: str
) -> None:
    server.set_budget(limit=1)
    openai.script(tool_calls(("orders_lookup", "{}"), usage=USAGE), reply("Never asked.", usage=USAGE))
    response = server.post(f"/api/agents/{endpoint}", send_body("Where is it?"))
    assert "unavailable" in response.text
    (row,) = server.get("/traces").json()["traces"]
    trace: dict[str, Any] = server.trace(row["id"])
    assert (trace["status"], trace["error_code"]) == ("error", "unavailable")
    assert [step["type"] for step in trace["steps"]][:1] == ["llm_call"]
    assert nano(trace["total_cost"]) == PRICED == nano(server.budget()["spent"])
    assert backend.messages == []
    assert_balanced()
