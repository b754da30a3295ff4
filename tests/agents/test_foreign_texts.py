"""Texts that models and backends make up: whatever they hold, the run is written down and its money booked."""

from __future__ import annotations

import pytest
from aiohttp import web

from apps.traces.models import TraceStep
from fakes.llm import FakeProvider, reply, tool_calls
from tests.agents.backend import MESSAGES, TASKS, Backend, Call, Reply
from tests.agents.ledger import assert_balanced
from tests.agents.test_failures import ask
from tests.world import ACME, Server

LONG = "x" * 300


@pytest.mark.parametrize("endpoint", ["send", "stream"])
@pytest.mark.parametrize("name", ["a\x00b", "\x00", f"a\x00{LONG}"], ids=["NUL", "NUL alone", "long"])
def test_a_tool_that_the_model_invents(server: Server, openai: FakeProvider, endpoint: str, name: str) -> None:
    server.set_budget()
    openai.script(tool_calls((name, "{}")), reply("It is on its way."))
    answer = ask(server, endpoint)
    assert answer.status == 200, answer.body
    step = TraceStep.objects.get(trace_id=answer.body["trace_id"], type="tool_call")
    assert (step.name, step.status) == (name.replace("\x00", "")[:128], "denied")
    assert_balanced(ACME)


def called(name: str) -> Reply:
    """Does what was asked, and gives the new row this id."""

    async def reply(call: Call) -> web.StreamResponse:
        call.accept()
        for rows in (call.backend.tasks, call.backend.messages):
            for row in rows[-1:]:
                row["id"] = name
        return web.json_response({**call.body, "id": name}, status=201)

    return reply


@pytest.mark.parametrize("name", ["row\x001", f"\x00{LONG}"], ids=["NUL", "long"])
def test_a_row_that_the_backend_names(server: Server, backend: Backend, openai: FakeProvider, name: str) -> None:
    backend.on(TASKS, called(name))
    backend.on(MESSAGES, called(name))
    response = server.send()
    assert response.status_code == 200, response.text
    trace = server.trace(response.json()["trace_id"])
    assert trace["task_id"] == trace["message_id"] == name.replace("\x00", "")[:128]
