"""POST /llm-task over HTTP: one question, one JSON value, checked by the caller's schema and asked for once more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from apps.agents.domain.json_output import MAX_REPAIR_PROBLEMS
from fakes.llm import WIRE_FORMATS, Behaviour, FakeProvider, error, reply, tool_calls
from tests.agents.backend import Backend
from tests.agents.ledger import assert_balanced, nano
from tests.agents.structured import GOOD, SCHEMA, USAGE, done, failed, own_host, sent, task
from tests.world import ACME, GLOBEX, Server, tenant_key

BAD = {"entities": ["Tuesday", 7]}
FAULTS = ["$.entities[1]", "$"]
"""Where BAD is wrong."""
PRICED = 100 * 150 + 20 * 600
PRIVATE = "mara.lindqvist@example.com"
TRACE_ID = "018f4e9a-7c2b-7d3e-8a4f-5b6c7d8e9f00"


@pytest.fixture(params=WIRE_FORMATS)
def host(
    request: pytest.FixtureRequest, server: Server, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeProvider]:
    fake = own_host(request.param, settings, monkeypatch)
    yield fake
    fake.close()


def says(fake: FakeProvider, value: Any) -> Behaviour:
    """The value as the host answers when a schema of an object is enforced."""
    text = json.dumps(value)
    return tool_calls(("output", text)) if fake.wire_format == WIRE_FORMATS["anthropic"] else reply(text)


# --- On every wire -------------------------------------------------------------------------------------------------


def test_a_valid_value(server: Server, host: FakeProvider) -> None:
    host.script(says(host, GOOD))
    body = done(task(server, input={"subject": "Grüße"}, max_tokens=77, temperature=0.25))
    assert (body["status"], body["output"], body["validated"]) == ("ok", GOOD, True)
    assert "validation_errors" not in body
    assert host.problems == []
    assert len(host.requests) == 1
    for words in ("77", "0.25", "Extract the intent", "Grüße", "strict JSON parser"):
        assert words in sent(host)
    assert_balanced()


def test_a_schema_of_no_object(server: Server, host: FakeProvider) -> None:
    host.script(reply("[1, 2]"))
    body = done(task(server, schema={"type": "array", "items": {"type": "integer"}}))
    assert (body["output"], body["validated"]) == ([1, 2], True)
    assert host.problems == []


def test_no_schema(server: Server, host: FakeProvider) -> None:
    host.script(reply('{"a": [null, 1.5]}'))
    body = done(task(server, schema=None))
    assert (body["output"], body["validated"]) == ({"a": [None, 1.5]}, False)
    assert "validation_errors" not in body
    assert host.problems == []


def test_a_wrong_value_is_repaired(server: Server, host: FakeProvider) -> None:
    host.script(says(host, BAD), says(host, GOOD))
    body = done(task(server))
    assert (body["output"], body["validated"]) == (GOOD, True)
    assert "validation_errors" not in body
    assert host.problems == []
    assert len(host.requests) == 2
    for place in FAULTS:
        assert f"- {place}: " in sent(host, 1)
        assert f"- {place}: " not in sent(host, 0)
    assert "Tuesday" in sent(host, 1), "its own answer"
    assert_balanced()


# --- Reading and repairing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [f"```json\n{json.dumps(GOOD)}\n```", f"Here you are: {json.dumps(GOOD)}. Anything else?"],
    ids=["fenced", "in prose"],
)
def test_text_around_the_value_is_tolerated(server: Server, openai: FakeProvider, text: str) -> None:
    openai.script(reply(text))
    body = done(task(server))
    assert (body["output"], body["validated"]) == (GOOD, True)
    assert len(openai.requests) == 1


@pytest.mark.parametrize("first", [json.dumps(BAD), "I cannot say."], ids=["wrong", "no JSON"])
def test_both_calls_are_paid(server: Server, openai: FakeProvider, first: str) -> None:
    server.set_budget(limit=1)
    openai.script(reply(first, usage=USAGE), reply(json.dumps(GOOD), usage=USAGE))
    body = done(task(server))
    assert body["usage"] == {name: 2 * count for name, count in USAGE.items()}
    assert nano(body["cost"]["totalCost"]) == 2 * PRICED == nano(server.budget()["spent"])
    steps = server.trace(body["trace_id"])["steps"]
    assert [(step["type"], nano(step["cost"])) for step in steps] == [("llm_call", PRICED)] * 2
    assert_balanced()


def test_never_valid(server: Server, openai: FakeProvider) -> None:
    openai.default = reply(json.dumps(BAD), usage=USAGE)
    body = done(task(server))
    assert (body["status"], body["output"], body["validated"]) == ("ok", BAD, False)
    assert sorted(each["path"] for each in body["validation_errors"]) == sorted(FAULTS)
    assert all(each.keys() == {"path", "message"} and each["message"] for each in body["validation_errors"])
    assert len(openai.requests) == 2
    trace = server.trace(body["trace_id"])
    assert (trace["status"], nano(trace["total_cost"])) == ("success", 2 * PRICED)


def test_many_errors_are_reported_up_to_a_limit(server: Server, openai: FakeProvider) -> None:
    openai.default = reply(json.dumps({"intent": "x", "entities": list(range(15))}))
    assert len(done(task(server))["validation_errors"]) == 15
    repair = openai.requests[1].body["messages"][-1]["content"]
    assert repair.count("- $.entities[") == MAX_REPAIR_PROBLEMS
    assert "- and 5 more" in repair


def test_never_json(server: Server, openai: FakeProvider) -> None:
    server.set_budget(limit=1)
    openai.default = reply("I cannot do that.", usage=USAGE)
    body = failed(task(server), 502, "invalid_output")
    assert [each["path"] for each in body["details"]["validation_errors"]] == ["$"]
    trace = server.trace(body["trace_id"])
    assert (trace["status"], trace["error_code"]) == ("error", "invalid_output")
    assert nano(trace["total_cost"]) == 2 * PRICED == nano(server.budget()["spent"])
    assert [step["type"] for step in trace["steps"]] == ["llm_call"] * 2
    assert_balanced()


NO_ANSWER: list[tuple[str, Behaviour, str]] = [
    ("cut off", reply('{"intent": "sch', finish="length", usage=USAGE), "output_truncated"),
    ("refusal", reply("I will not.", finish="refusal", usage=USAGE), "provider_refused"),
    ("filtered", reply("", finish="content_filter", usage=USAGE), "content_filtered"),
    ("empty", reply(" \n", usage=USAGE), "empty_answer"),
]


@pytest.mark.parametrize("before", [0, 1], ids=["at once", "when repaired"])
@pytest.mark.parametrize(("answer", "code"), [case[1:] for case in NO_ANSWER], ids=[case[0] for case in NO_ANSWER])
def test_an_invalid_answer(server: Server, openai: FakeProvider, answer: Behaviour, code: str, before: int) -> None:
    openai.script(*[reply("No JSON.", usage=USAGE)] * before, answer)
    body = failed(task(server), 502, code)
    assert len(openai.requests) == before + 1
    trace = server.trace(body["trace_id"])
    assert (trace["status"], nano(trace["total_cost"])) == ("error", (before + 1) * PRICED)
    assert_balanced()


@pytest.mark.parametrize(
    "second",
    [*(case[1] for case in NO_ANSWER), reply("No JSON.", usage=USAGE)],
    ids=[*(case[0] for case in NO_ANSWER), "no JSON"],
)
def test_json_that_came_first_is_kept_when_the_repair_returns_none(
    server: Server, openai: FakeProvider, second: Behaviour
) -> None:
    openai.script(reply("{}", usage=USAGE), second)
    body = done(task(server))
    assert (body["output"], body["validated"], body["validation_errors"][0]["path"]) == ({}, False, "$")
    trace = server.trace(body["trace_id"])
    assert (trace["status"], trace["output"]["response"], nano(trace["total_cost"])) == ("success", "{}", 2 * PRICED)
    assert_balanced()


def test_json_that_came_first_is_kept_when_the_provider_fails(server: Server, openai: FakeProvider) -> None:
    openai.script(reply("{}", usage=USAGE), *(error(500),) * 3)
    assert done(task(server))["output"] == {}
    assert len(openai.requests) == 4
    assert_balanced()


# --- Limits and models ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "limit"), [(None, 500), (100_000, 500), (500, 500), (77, 77), (1, 1)])
def test_the_output_has_a_limit(
    server: Server, openai: FakeProvider, settings: Any, wanted: int | None, limit: int
) -> None:
    settings.CLASPER_MAX_OUTPUT_TOKENS = 500
    openai.default = reply(json.dumps(GOOD))
    done(task(server, max_tokens=wanted))
    body = openai.requests[0].body
    assert (body.get("max_completion_tokens") or body["max_tokens"]) == limit
    assert body["temperature"] == 0.3


def test_the_model_may_be_named(server: Server, openai: FakeProvider, settings: Any) -> None:
    settings.LLM_MODEL_BEST = "gpt-4.1"
    openai.default = reply(json.dumps(GOOD))
    for named, asked in {"gpt-4o": "gpt-4o", "openai/gpt-4o": "gpt-4o", "best": "gpt-4.1"}.items():
        body = done(task(server, model=named))
        assert body["cost"]["model"] == openai.requests[-1].model == asked


def test_a_key_may_be_kept_to_models(server: Server, openai: FakeProvider) -> None:
    openai.default = reply(json.dumps(GOOD))
    key = tenant_key(ACME, allowed_models=["openai/gpt-4o-mini"])
    body = failed(task(server, model="gpt-4o", key=key), 403, "permission_denied")
    assert body["details"] == {"permission": "model", "model": "openai/gpt-4o"}
    (entry,) = server.audit(event_type="permission.denied")
    assert entry["details"] == {"permission": "model", "route": "POST /llm-task"}
    assert openai.requests == []
    done(task(server, key=key))


def test_a_model_the_provider_does_not_know(server: Server, openai: FakeProvider) -> None:
    openai.script(error(404, {"error": {"message": "No such model", "code": "model_not_found"}}))
    body = failed(task(server, model="gpt-none"), 400, "unknown_model")
    assert server.trace(body["trace_id"])["status"] == "error"
    assert_balanced()


# --- Governance ----------------------------------------------------------------------------------------------------


def test_the_trace(server: Server, backend: Backend, openai: FakeProvider) -> None:
    openai.script(reply(json.dumps({"intent": f"write to {PRIVATE}"})))
    body = done(task(server, prompt=f"Write to {PRIVATE}", input=[PRIVATE], metadata={"order": PRIVATE}))
    assert PRIVATE in sent(openai)
    assert body["output"] == {"intent": f"write to {PRIVATE}"}
    trace = server.trace(body["trace_id"])
    assert (trace["kind"], trace["agent_id"], trace["status"]) == ("llm_task", "llm-task", "success")
    assert (trace["redactions"], PRIVATE in json.dumps(trace)) == (4, False)
    assert "Write to " in trace["input"]["message"]
    assert PRIVATE not in server.get("/audit").text
    started, completed = server.audit(trace_id=body["trace_id"])
    assert (started["event_type"], completed["event_type"]) == ("agent.start", "agent.complete")
    assert started["actor"] == "agent:llm-task"
    assert backend.calls == []


def test_it_knows_nothing_of_the_workspace(server: Server, openai: FakeProvider) -> None:
    openai.script(reply(json.dumps(GOOD)))
    trace = server.trace(done(task(server))["trace_id"])
    assert "small shop" not in sent(openai)
    assert "tools" not in openai.requests[0].body
    assert (trace["skill_versions"], trace["workspace_hash"] or "") == ({}, "")


def test_the_budget_refuses(server: Server, openai: FakeProvider) -> None:
    server.set_budget(limit=0.000_000_001)
    body = failed(task(server), 402, "budget_exceeded")
    assert server.trace(body["trace_id"])["error_code"] == "budget_exceeded"
    assert openai.requests == []
    assert_balanced()


def test_the_budget_refuses_the_repair(server: Server, openai: FakeProvider) -> None:
    """The first call is paid, the second is never made; JSON that came first stands."""
    server.set_budget(limit=0.0004)
    dear = {"prompt_tokens": 2_400, "completion_tokens": 60, "total_tokens": 2_460}
    openai.script(reply("{}", usage=dear))
    body = done(task(server, max_tokens=64))
    assert (body["output"], body["validated"]) == ({}, False)
    assert len(openai.requests) == 1
    trace = server.trace(body["trace_id"])
    assert (trace["status"], nano(trace["total_cost"])) == ("success", 2_400 * 150 + 60 * 600)
    assert "budget.exceeded" in [entry["event_type"] for entry in server.audit(trace_id=body["trace_id"])]
    assert_balanced()


def test_the_same_request_gets_the_same_answer(server: Server, openai: FakeProvider) -> None:
    headers = {"Idempotency-Key": "task-1"}
    openai.default = reply(json.dumps(GOOD))
    first, again = (task(server, headers=headers) for _ in range(2))
    assert done(again) == done(first)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    failed(task(server, schema={"type": "object"}, headers=headers), 409, "idempotency_mismatch")
    assert len(openai.requests) == 1


def test_numbers_beyond_those_of_javascript_can_be_repeated(server: Server, openai: FakeProvider) -> None:
    """Ids of some services are that large."""
    openai.default = reply(json.dumps(GOOD))
    first, again = (task(server, input={"id": 2**60}, headers={"Idempotency-Key": "large"}) for _ in range(2))
    assert done(again) == done(first)
    failed(task(server, input={"id": 2**60 + 1}, headers={"Idempotency-Key": "large"}), 409, "idempotency_mismatch")


def test_the_callers_trace_id_is_taken_over(server: Server, openai: FakeProvider) -> None:
    openai.default = reply(json.dumps(GOOD))
    response = task(server, headers={"X-Trace-Id": TRACE_ID.upper()})
    assert done(response)["trace_id"] == response.headers["X-Trace-Id"] == TRACE_ID
    assert server.trace(TRACE_ID)["kind"] == "llm_task"
    failed(task(server, headers={"X-Trace-Id": TRACE_ID}), 409, "trace_id_in_use")
    labelled = done(task(server, headers={"X-Trace-Id": "order 7"}))["trace_id"]
    assert server.trace(labelled)["labels"] == {"correlation_id": "order 7"}


@pytest.mark.parametrize(
    ("fields", "key", "tenant"),
    [
        ({}, "", "default"),
        ({"user_id": "u-7"}, "", "u-7"),
        ({"user_id": "u-7", "tenant_id": ACME}, "", ACME),
        ({}, GLOBEX, GLOBEX),
        ({"user_id": ACME}, GLOBEX, GLOBEX),
    ],
    ids=["nobody", "user", "user and tenant", "key", "key and user"],
)
def test_whose_task_it_is(server: Server, openai: FakeProvider, fields: dict[str, Any], key: str, tenant: str) -> None:
    openai.default = reply("{}")
    body = {"prompt": "Extract", **fields}
    found = done(server.post("/llm-task", body, key=tenant_key(key) if key else None))
    assert server.trace(found["trace_id"])["tenant_id"] == tenant


OFFLINE: dict[str, dict[str, Any]] = {
    "object": SCHEMA,
    "nested": {
        "type": "object",
        "properties": {"order": {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}},
        "required": ["order"],
    },
    "choice": {"type": "object", "properties": {"mood": {"enum": ["good", "bad"]}}, "required": ["mood"]},
    "number": {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]},
    "array": {"type": "array", "items": {"type": "string"}},
    "boolean": {"type": "boolean"},
    "any object": {"type": "object"},
}


@pytest.mark.parametrize("schema", OFFLINE)
def test_the_offline_model_returns_a_valid_value(server: Server, schema: str) -> None:
    body = done(task(server, prompt='The order ORD-7 of 3 "cups" is good', schema=OFFLINE[schema]))
    assert body["validated"] is True
