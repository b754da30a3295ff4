"""Personal data and secrets in every field of every kind of run: none of it in any table, log or webhook body.

The model and the control plane get the originals. The embedded control plane is not asked here: the user's own backend
keeps what it is given.
"""

from __future__ import annotations

import base64
import json
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from django.conf import settings
from django.db import connection

from apps.agents.services.outbox import deliver_due
from apps.agents.services.upkeep import sweep
from clasper.core.clock import utc_now
from clasper.core.logs import JSONFormatter
from clasper.gateways.llm.fake import FakeProvider, error, half_stream, reply, tool_calls
from tests.agents.backend import MESSAGES, TASKS, Backend, Receiver, answers
from tests.conftest import run
from tests.world import Server

TOOL = "POST /api/tools/orders:lookup"


@dataclass
class Canaries:
    """Makes texts that each hold one of every kind, and remembers every value by the field it was made for."""

    dice: random.Random = field(default_factory=lambda: random.Random(7))
    values: dict[str, str] = field(default_factory=dict)

    def text(self, where: str) -> str:
        """One sentence with an address, a phone number, a card, an API key and a token, all new."""
        kinds = {
            "email": f"canary.{self._letters(12)}@mail-{self._letters(6)}.example",
            "phone": f"+1 415 {self.dice.randrange(200, 999)} {self.dice.randrange(1000, 9999)}",
            "card": self._card(),
            "key": f"sk-proj-{self._letters(40)}",
            "token": self._token(),
        }
        self.values.update({f"{where} {kind}": value for kind, value in kinds.items()})
        return (
            f"Write to {kinds['email']} or call {kinds['phone']}; card {kinds['card']}, key {kinds['key']}, "
            f"token {kinds['token']}."
        )

    def of(self, where: str) -> list[str]:
        return [value for name, value in self.values.items() if name.rpartition(" ")[0] == where]

    def found_in(self, haystack: str) -> list[str]:
        """The names of the canaries that are there."""
        return [name for name, value in self.values.items() if value in haystack]

    def _letters(self, number: int) -> str:
        return "".join(self.dice.choices("abcdefghjkmnpqrstuvwxyz23456789", k=number))

    def _card(self) -> str:
        digits = [4, *self.dice.choices(range(10), k=14)]
        doubled = [d if i % 2 else (2 * d - 9 if d > 4 else 2 * d) for i, d in enumerate(digits)]
        digits.append(-sum(doubled) % 10)
        number = "".join(map(str, digits))
        return " ".join(number[i : i + 4] for i in range(0, 16, 4))

    def _token(self) -> str:
        def part(value: dict[str, str]) -> str:
            return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

        return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part({'sub': self._letters(16)})}.{self._letters(43)}"


def stored() -> Iterator[tuple[str, str]]:
    """Every value of every table but the embedded control plane's, with the column it stands in."""
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            if table.startswith("cp_"):
                continue
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            columns = [column[0] for column in cursor.description]
            for row in cursor.fetchall():
                for column, value in zip(columns, row, strict=True):
                    text = bytes(value).decode("latin-1") if isinstance(value, bytes | memoryview) else str(value)
                    yield f"{table}.{column}", text


def leaks(canaries: Canaries, caplog: pytest.LogCaptureFixture, receiver: Receiver) -> list[str]:
    """Where a canary was kept, as "place: canary"."""
    found = [f"{column}: {name}" for column, text in stored() for name in canaries.found_in(text)]
    formatter = JSONFormatter(redactor=settings.LOGGING["formatters"]["json"]["redactor"])
    written = "\n".join(map(formatter.format, caplog.records))
    found += [f"log: {name}" for name in canaries.found_in(written)]
    found += [f"webhook: {name}" for _, body in receiver.received for name in canaries.found_in(body.decode())]
    return sorted(set(found))


@pytest.fixture
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture(autouse=True)
def _listen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, logger="clasper")


@pytest.fixture
def talkative(backend: Backend, openai: FakeProvider, canaries: Canaries) -> None:
    """A model and a tool that repeat personal data in everything they say."""
    backend.tools["orders:lookup"] = lambda arguments: {
        "note": canaries.text("tool result"),
        canaries.text("tool result key"): 1,
    }
    arguments = json.dumps({"order_id": canaries.text("tool arguments"), "list": [canaries.text("nested argument")]})
    openai.script(
        tool_calls(
            ("orders:lookup", arguments),
            ("orders:refund", json.dumps({"reason": canaries.text("denied arguments")})),
            ("orders:lookup", '{"broken": "' + canaries.text("broken arguments")),
            (canaries.text("invented tool"), "{}"),
            text=canaries.text("words beside calls"),
        ),
        reply(canaries.text("answer")),
    )


def request(canaries: Canaries, receiver: Receiver) -> dict[str, Any]:
    """A run request with a canary in every field that holds words."""
    text = canaries.text
    return {
        "message": text("message"),
        "messages": [
            {"role": "user", "content": text("history of the user")},
            {"role": "assistant", "content": text("history of the agent")},
        ],
        "task_title": text("task title"),
        "task_description": text("task description"),
        "task_metadata": {"note": text("task metadata"), text("task metadata key"): True},
        "metadata": {
            "system_prompt": text("prompt override"),
            "kickoff_plan": True,
            "kickoff_note": text("kickoff note"),
            "plan_title": text("plan title"),
            "custom": {"deep": [text("metadata")], text("metadata key"): 1},
        },
        "webhook": {
            "url": f"{receiver.url}?for={canaries.text('webhook url').replace(' ', '%20')}",
            "secret": text("webhook secret"),
            "headers": {"X-Note": text("webhook header")},
        },
        "headers": {
            "X-Trace-Id": text("trace header"),
            "Idempotency-Key": text("idempotency header")[:255],
            "X-Other": text("other header"),
            "User-Agent": text("user agent"),
        },
    }


async def deliver() -> None:
    for hours in range(0, 30, 6):
        await deliver_due(now=utc_now() + timedelta(hours=hours))
    await sweep(now=utc_now() + timedelta(hours=1))


@pytest.mark.parametrize("door", ["send", "stream"])
def test_a_run_that_goes_well(
    server: Server,
    backend: Backend,
    openai: FakeProvider,
    receiver: Receiver,
    talkative: None,
    canaries: Canaries,
    caplog: pytest.LogCaptureFixture,
    door: str,
) -> None:
    body = request(canaries, receiver)
    if door == "send":
        assert server.send(**body).status_code == 200
        assert server.send(**body).headers["Idempotency-Replayed"] == "true"
    else:
        assert server.stream(**body)[-1].name == "done"
    run(deliver())

    read = json.dumps([exchange.body for exchange in openai.requests], ensure_ascii=False)
    for where in ("message", "history of the user", "prompt override", "kickoff note", "tool result"):
        assert all(value in read for value in canaries.of(where)), where
    kept = json.dumps([backend.tasks, backend.messages, backend.documents, [call.body for call in backend.hits(TOOL)]])
    for where in ("task title", "task description", "answer", "plan title", "tool arguments", "nested argument"):
        assert all(value in kept for value in canaries.of(where)), where
    assert len(receiver.received) == 1
    assert leaks(canaries, caplog, receiver) == []


BROKEN = ["provider", "stream", "unknown model", "garbage", "task", "message", "tool"]


@pytest.mark.parametrize("door", ["send", "stream"])
@pytest.mark.parametrize("broken", BROKEN)
def test_a_run_that_fails(
    server: Server,
    backend: Backend,
    openai: FakeProvider,
    receiver: Receiver,
    canaries: Canaries,
    caplog: pytest.LogCaptureFixture,
    broken: str,
    door: str,
) -> None:
    fault = {"error": {"message": canaries.text("fault"), "code": canaries.text("fault code")}}
    if broken == "provider":
        openai.script(error(400, fault))
    elif broken == "unknown model":
        openai.script(error(404, {"error": {"message": canaries.text("no model"), "code": "model_not_found"}}))
    elif broken == "garbage":
        openai.default = error(503, f"<html>{canaries.text('error page')}</html>")
    elif broken == "stream":
        openai.script(half_stream(3))
    elif broken == "task":
        backend.on(TASKS, answers(400, fault, Warning=canaries.text("warning")))
    elif broken == "message":
        openai.script(reply(canaries.text("answer")))
        backend.on(MESSAGES, answers(404, fault))
    elif broken == "tool":
        backend.tools["orders:lookup"] = lambda arguments: web.json_response(fault, status=422)
        openai.script(tool_calls(("orders:lookup", "{}")), reply("Sorry."))
    body = request(canaries, receiver)
    if door == "send":
        server.send(**body)
    else:
        server.stream(**body)
    run(deliver())
    assert len(receiver.received) == 1
    assert leaks(canaries, caplog, receiver) == []


def test_a_request_that_is_refused(
    server: Server,
    backend: Backend,
    openai: FakeProvider,
    receiver: Receiver,
    canaries: Canaries,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At the door, by the budget, for the credential: what is refused is not kept either."""
    body = request(canaries, receiver)
    assert server.send(**{**body, "session_key": canaries.text("session")}).status_code == 400
    assert server.send(**{**body, "messages": canaries.text("wrong type")}).status_code == 400
    assert server.send(key=canaries.of("message")[3], **body).status_code == 401
    server.set_budget(limit=0.000000001)
    assert server.send(**body).status_code == 402
    assert leaks(canaries, caplog, receiver) == []
