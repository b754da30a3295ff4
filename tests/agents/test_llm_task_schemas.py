"""Schemas, bodies and answers of structured tasks that are odd, faulty, huge or hostile."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from apps.traces.models import Trace
from fakes.llm import FakeProvider, raw, reply
from tests.agents.ledger import assert_balanced, claims
from tests.agents.structured import GOOD, SCHEMA, USAGE, done, failed, task
from tests.world import Server

# --- Schemas -------------------------------------------------------------------------------------------------------


DRAFT_7 = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "definitions": {"count": {"type": "integer", "minimum": 0}},
    "type": "object",
    "properties": {"pair": {"type": "array", "items": [{"type": "string"}, {"$ref": "#/definitions/count"}]}},
}
LATEST = {
    "$defs": {"count": {"type": "integer", "minimum": 0}},
    "type": "object",
    "properties": {"pair": {"type": "array", "prefixItems": [{"type": "string"}, {"$ref": "#/$defs/count"}]}},
}
NAMED = {"$schema": "https://json-schema.org/draft/2020-12/schema", **LATEST}


@pytest.mark.parametrize("schema", [DRAFT_7, LATEST, NAMED], ids=["draft 7", "no draft named", "2020-12"])
def test_drafts_and_inner_references(server: Server, openai: FakeProvider, schema: dict[str, Any]) -> None:
    openai.script(reply('{"pair": ["tea", 2]}'))
    assert done(task(server, schema=schema))["validated"] is True
    openai.default = reply('{"pair": ["tea", -2]}')
    body = done(task(server, schema=schema))
    assert (body["validated"], [each["path"] for each in body["validation_errors"]]) == (False, ["$.pair[1]"])


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A port to which nobody should connect."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        found.setblocking(False)
        yield found


OUTSIDE: list[tuple[str, dict[str, Any]]] = [
    ("$ref to http", {"$ref": "http://127.0.0.1:PORT/schema.json"}),
    ("$ref to file", {"$ref": "file:///etc/passwd"}),
    ("$ref by $id", {"$id": "http://127.0.0.1:PORT/", "properties": {"a": {"$ref": "other.json"}}}),
    ("$dynamicRef to http", {"$dynamicRef": "http://127.0.0.1:PORT/schema.json"}),
    ("$schema of a stranger", {"$schema": "http://127.0.0.1:PORT/schema.json"}),
    ("deep inside", {"properties": {"a": {"anyOf": [{"items": {"$ref": "http://127.0.0.1:PORT/x#/y"}}]}}}),
]


@pytest.mark.parametrize("schema", [case[1] for case in OUTSIDE], ids=[case[0] for case in OUTSIDE])
def test_nothing_outside_the_schema_is_read(
    server: Server, openai: FakeProvider, listener: socket.socket, schema: dict[str, Any]
) -> None:
    here = json.loads(json.dumps(schema).replace("PORT", str(listener.getsockname()[1])))
    body = failed(task(server, schema={"type": "object", **here}), 400, "invalid_request")
    assert body["details"]["fieldErrors"].keys() == {"schema"}
    assert "root:" not in json.dumps(body)
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert openai.requests == []


def test_all_errors_of_a_body_at_once(server: Server, openai: FakeProvider) -> None:
    wrong: dict[str, Any] = {
        "prompt": " \n",
        "schema": {"type": "objekt", "required": "intent"},
        "model": 7,
        "temperature": 2.1,
        "max_tokens": 0,
        "agent_role": "../AGENTS",
        "workspace_id": "../etc",
        "user_id": "u\x01",
        "metadata": [],
    }
    body = failed(task(server, **wrong), 400, "invalid_request")
    assert body["details"]["fieldErrors"].keys() == wrong.keys()
    assert sorted(text.partition(":")[0] for text in body["details"]["fieldErrors"]["schema"]) == [
        "$.required",
        "$.type",
    ]
    assert openai.requests == []
    assert not Trace.objects.exists()


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("no prompt", {"prompt": None}, "prompt"),
    ("empty prompt", {"prompt": ""}, "prompt"),
    ("too cold", {"temperature": -0.1}, "temperature"),
    ("temperature beyond numbers", {"temperature": 10**400}, "temperature"),
    ("endless output", {"max_tokens": 10**30}, "max_tokens"),
    ("schema no object", {"schema": True}, "schema"),
    ("schema with look-around", {"schema": {"properties": {"a": {"pattern": "(?=x)"}}}}, "schema"),
]


@pytest.mark.parametrize(("change", "field"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_wrong_field(server: Server, openai: FakeProvider, change: dict[str, Any], field: str) -> None:
    body = failed(task(server, **change), 400, "invalid_request")
    assert body["details"]["fieldErrors"].keys() == {field}
    assert openai.requests == []


@pytest.mark.parametrize("content", [b'{"prompt": ', b"[]", b'{"prompt": "\\u0000"}', b'{"input":' * 100])
def test_an_invalid_body(server: Server, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = server.request("POST", "/llm-task", content=content, headers=headers)
    assert response.status_code == 400
    assert response.json()["code"] in ("invalid_json", "invalid_request")


def test_unknown_fields_change_nothing(server: Server, openai: FakeProvider) -> None:
    openai.default = reply(json.dumps(GOOD))
    plain, more = task(server), task(server, stream=True, session_key="x", messages="x", system_prompt="Obey.")
    assert done(more)["output"] == done(plain)["output"]
    assert openai.requests[0].body == openai.requests[1].body


# --- Hostile answers -----------------------------------------------------------------------------------------------

HUGE = 10 * 1024 * 1024


def test_an_answer_of_ten_megabytes(server: Server, openai: FakeProvider) -> None:
    openai.default = reply('"' + "x" * HUGE + '"')
    body = failed(task(server), 502, "provider_error")
    assert server.trace(body["trace_id"])["status"] == "error"
    assert_balanced()


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


HOSTILE: dict[str, str] = {
    "nested": nested(100_000),
    "nested almost too deep": nested(980),
    "nested deep": nested(700),
    "NaN": '{"intent": NaN}',
    "beyond numbers": '{"intent": 1e999}',
    "huge number": '{"intent": ' + "9" * 4000 + "}",
    "number beyond integers": '{"intent": ' + "9" * 5000 + "}",
    "tiny number": '{"intent": 1e-999}',
    "half a pair": '{"intent": "\\ud800"}',
    "half a pair in a key": '{"\\udfff": 1}',
    "escaped NUL": '{"intent": "a\\u0000b", "k\\u0000": "\\u0000"}',
    "NUL": '{"intent": "a\x00b"}',
    "NUL alone": "\x00",
    "same key twice": '{"intent": "a", "intent": 1}',
    "no characters": '"\ufffe\uffff\u2028"',
}
SCHEMAS: dict[str, dict[str, Any] | None] = {
    "no schema": None,
    "schema": SCHEMA,
    "every kind": {"additionalProperties": {"enum": [0]}, "items": {"items": {"type": "null"}}},
}


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_answer_is_never_an_error_of_ours(
    server: Server, openai: FakeProvider, text: str, schema: str
) -> None:
    openai.default = reply(HOSTILE[text], usage=USAGE)
    response = task(server, schema=SCHEMAS[schema], headers={"Idempotency-Key": "hostile"})
    assert response.status_code in (200, 502), response.text[:500]
    if response.status_code == 502:
        assert response.json()["code"] == "invalid_output"
        assert claims() == []
    else:
        again = task(server, schema=SCHEMAS[schema], headers={"Idempotency-Key": "hostile"})
        assert (again.status_code, again.content) == (200, response.content)
    trace = server.trace(response.headers["X-Trace-Id"])
    assert trace["status"] == ("success" if response.status_code == 200 else "error")
    assert_balanced()


def test_half_a_pair_in_the_hosts_own_json(server: Server, openai: FakeProvider) -> None:
    message = b'{"choices": [{"message": {"content": "\\ud800"}, "finish_reason": "stop"}]}'
    openai.default = raw(message)
    failed(task(server), 502, "provider_error")
    assert_balanced()
