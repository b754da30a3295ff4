"""POST /compact over HTTP: the older turns of a conversation become one summary, which later runs read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from apps.agents.domain.compaction import SUMMARY_HEADING
from apps.traces.models import Trace
from clasper.core.model_ref import PROVIDERS
from fakes.llm import FakeProvider, error, reply
from tests.agents.backend import Backend
from tests.agents.ledger import assert_balanced, claims, nano
from tests.agents.structured import done, failed, own_host, sent
from tests.agents.test_history import answer, call, say
from tests.world import ACME, GLOBEX, Server, tenant_key

SIX = [say(role, f"{role} {n}") for n in (1, 2, 3) for role in ("user", "assistant")]
TOOLS = [say("user", "What time is it?"), call("call_1", "call_2"), answer("call_1"), answer("call_2")]
SUMMARY = "Tea was ordered for Köln; the price is open."
TURN = {"role": "system", "content": f"{SUMMARY_HEADING}\n{SUMMARY}"}

USAGE = {"prompt_tokens": 500, "completion_tokens": 100, "total_tokens": 600}
PRICED = 500 * 150 + 100 * 600
PRIVATE = "mara.lindqvist@example.com"
TRACE_ID = "018f4e9a-7c2b-7d3e-8a4f-5b6c7d8e9f00"


def compact(
    server: Server, *messages: Any, key: str | None = None, headers: dict[str, str] | None = None, **fields: Any
) -> httpx.Response:
    """A compaction of acme's, of SIX unless there are other turns; a field given as None is left out."""
    body = {"messages": messages or SIX, "tenant_id": ACME, **fields}
    body = {name: value for name, value in body.items() if value is not None}
    return server.post("/compact", body, key=key, headers=headers or {})


def transcript(fake: FakeProvider, number: int = 0) -> str:
    """What the model is to summarise."""
    text: str = fake.requests[number].body["messages"][-1]["content"]
    return text


def summaries(body: dict[str, Any]) -> list[str]:
    return [turn["content"] for turn in body["compacted_messages"] if SUMMARY_HEADING in (turn["content"] or "")]


@pytest.fixture
def model(openai: FakeProvider) -> FakeProvider:
    """A model that summarises everything as SUMMARY."""
    openai.default = reply(SUMMARY, usage=USAGE)
    return openai


@pytest.fixture(params=PROVIDERS)
def host(
    request: pytest.FixtureRequest, server: Server, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeProvider]:
    fake = own_host(request.param, settings, monkeypatch)
    yield fake
    fake.close()


# --- What becomes of the turns -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "kept"), [(None, 2), (0, 0), (1, 1), (5, 5)])
def test_older_turns_become_a_summary(server: Server, model: FakeProvider, keep: int | None, kept: int) -> None:
    body = done(compact(server, keep_recent=keep))
    older, recent = SIX[: 6 - kept], SIX[6 - kept :]
    assert body["compacted_messages"] == [TURN, *recent]
    assert (body["original_count"], body["compacted_count"]) == (6, kept + 1)
    assert (body["usage"], nano(body["cost"]["totalCost"])) == (USAGE, PRICED)
    assert transcript(model) == "\n\n".join(f"{turn['role'].upper()}: {turn['content']}" for turn in older)
    assert model.requests[0].body["temperature"] == 0.3
    assert_balanced()


@pytest.mark.parametrize("keep", [6, 7, 10**30])
def test_nothing_older_is_unchanged_and_free(server: Server, model: FakeProvider, keep: int) -> None:
    response = compact(server, keep_recent=keep)
    assert done(response) == {
        "status": "ok",
        "compacted_messages": SIX,
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        "original_count": 6,
        "compacted_count": 6,
        "cost": None,
        "trace_id": None,
    }
    assert "X-Trace-Id" not in response.headers
    assert model.requests == []
    assert not Trace.objects.exists()


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_call_and_its_results_stay_together(server: Server, model: FakeProvider, keep: int) -> None:
    body = done(compact(server, *TOOLS, keep_recent=keep))
    assert [turn["role"] for turn in body["compacted_messages"]] == ["system", "assistant", "tool", "tool"]
    assert body["compacted_messages"][1]["tool_calls"] == TOOLS[1]["tool_calls"]
    assert body["compacted_messages"][2:] == TOOLS[2:]
    assert transcript(model) == "USER: What time is it?"


def test_calls_and_results_are_part_of_the_transcript(server: Server, model: FakeProvider) -> None:
    done(compact(server, *TOOLS, keep_recent=0))
    assert "ASSISTANT called clock({})" in transcript(model)
    assert transcript(model).count("TOOL clock: 12:00") == 2


def test_compacting_twice_keeps_one_summary(server: Server, model: FakeProvider) -> None:
    once = done(compact(server))
    later = [say("user", "And coffee?"), say("assistant", "Noted.")]
    model.default = reply("Tea and coffee.")
    twice = done(compact(server, *once["compacted_messages"], *later))
    assert summaries(twice) == [f"{SUMMARY_HEADING}\nTea and coffee."]
    assert twice["compacted_messages"][1:] == later
    assert transcript(model, 1).startswith(f"SYSTEM: {SUMMARY_HEADING}\n{SUMMARY}\n\nUSER: user 3")


def test_system_turns_are_turns(server: Server, model: FakeProvider) -> None:
    turns = [say("system", "Be brief."), TURN, *SIX]
    body = done(compact(server, *turns))
    assert (body["original_count"], body["compacted_count"]) == (8, 3)
    assert transcript(model).startswith("SYSTEM: Be brief.\n\nSYSTEM: ")


# --- The summary is read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [SIX, [*SIX, *TOOLS, say("assistant", "Noon.")]], ids=["talk", "tools"])
def test_the_next_run_reads_the_summary_in_every_wire_format(
    server: Server, host: FakeProvider, turns: list[dict[str, Any]]
) -> None:
    host.script(reply(SUMMARY), reply("Köln."))
    compacted = done(compact(server, *turns))["compacted_messages"]
    assert len(compacted) == (3 if turns is SIX else 5)
    answered = server.send("Where to?", messages=compacted)
    assert done(answered)["response"] == "Köln."
    assert SUMMARY in sent(host, 1)
    assert "small shop" in sent(host, 1), "beside the workspace's prompt"
    assert "user 1" not in sent(host, 1)
    assert host.problems == []


def test_a_run_with_nothing_but_the_summary(server: Server, host: FakeProvider) -> None:
    host.script(reply(SUMMARY), reply("Köln."))
    compacted = done(compact(server, keep_recent=0))["compacted_messages"]
    assert done(server.send("Where to?", messages=compacted))["response"] == "Köln."
    assert SUMMARY in sent(host, 1)
    assert host.problems == []


# --- Instructions and models ---------------------------------------------------------------------------------------


def test_instructions_reach_the_model(server: Server, model: FakeProvider) -> None:
    done(compact(server, instructions="Focus on prices."))
    done(compact(server))
    own, usual = (str(model.requests[n].body["messages"][0]) for n in (0, 1))
    assert "Focus on prices." in own
    assert "open questions" in usual
    assert "open questions" not in own
    assert "small shop" not in own + usual


def test_the_cheap_model_summarises(server: Server, model: FakeProvider, settings: Any) -> None:
    done(compact(server))
    settings.LLM_MODEL_CHEAP = "gpt-4.1-nano"
    body = done(compact(server))
    done(compact(server, model="gpt-4o"))
    done(compact(server, model="default"))
    assert body["cost"]["model"] == "gpt-4.1-nano"
    assert [each.model for each in model.requests] == ["gpt-4o-mini", "gpt-4.1-nano", "gpt-4o", "gpt-4o-mini"]


def test_a_key_may_be_kept_to_models(server: Server, model: FakeProvider, settings: Any) -> None:
    settings.LLM_MODEL_CHEAP = "gpt-4.1-nano"
    key = tenant_key(ACME, allowed_models=["openai/gpt-4o-mini"])
    failed(compact(server, key=key), 403, "permission_denied")
    assert model.requests == []
    done(compact(server, key=key, model="gpt-4o-mini"))


def test_a_model_the_provider_does_not_know(server: Server, model: FakeProvider) -> None:
    model.script(error(404, {"error": {"message": "No such model", "code": "model_not_found"}}))
    failed(compact(server, model="gpt-none"), 400, "unknown_model")
    assert_balanced()


def test_a_cheap_model_the_provider_does_not_know(server: Server, model: FakeProvider, settings: Any) -> None:
    """The operator's setting is wrong, not the request."""
    settings.LLM_MODEL_CHEAP = "gpt-none"
    model.script(error(404, {"error": {"message": "No such model", "code": "model_not_found"}}))
    failed(compact(server), 502, "provider_error")
    assert_balanced()


# --- Refused -------------------------------------------------------------------------------------------------------

IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}

REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("no turns", {"messages": []}, "messages", "length >= 1"),
    ("no turns at all", {"messages": None}, "messages", "This field is required."),
    ("turn of no role", {"messages": [say("robot")]}, "messages", "[0].role: "),
    ("image", {"messages": [SIX[0], IMAGE]}, "messages", "[1].content: Only text is taken, as one string; images and"),
    ("begins with a result", {"messages": TOOLS[2:]}, "messages", "[0]: The assistant turn before it made no call"),
    ("result missing", {"messages": TOOLS[:3]}, "messages", "[1].tool_calls[1]: No tool turn answers the call call_2."),
    ("fewer than none", {"keep_recent": -1}, "keep_recent", ">= 0"),
    ("half a turn", {"keep_recent": 1.5}, "keep_recent", "int"),
    ("role climbs", {"agent_role": "../AGENTS"}, "agent_role", "A role has"),
    ("model no text", {"model": 7}, "model", "str"),
]


@pytest.mark.parametrize(
    ("change", "field", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_a_wrong_field(server: Server, model: FakeProvider, change: dict[str, Any], field: str, words: str) -> None:
    body = {"messages": SIX, **change}
    sent_body = {name: value for name, value in body.items() if value is not None}
    errors = failed(server.post("/compact", sent_body), 400, "invalid_request")["details"]["fieldErrors"]
    assert errors.keys() == {field}
    assert any(words in text for text in errors[field]), errors
    assert model.requests == []
    assert not Trace.objects.exists()


def test_all_errors_at_once(server: Server, model: FakeProvider) -> None:
    body = failed(compact(server, IMAGE, answer("x"), keep_recent=-1, model=7), 400, "invalid_request")
    assert body["details"]["fieldErrors"].keys() == {"messages", "keep_recent", "model"}
    assert {text[:3] for text in body["details"]["fieldErrors"]["messages"]} == {"[0]", "[1]"}


UNUSABLE = {
    "empty": (reply("", usage=USAGE), "empty_answer"),
    "blank": (reply(" \n\t", usage=USAGE), "empty_answer"),
    "cut off": (reply("Tea was", finish="length", usage=USAGE), "output_truncated"),
    "refusal": (reply("I will not.", finish="refusal", usage=USAGE), "provider_refused"),
    "filtered": (reply("", finish="content_filter", usage=USAGE), "content_filtered"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_an_invalid_summary(server: Server, model: FakeProvider, kind: str) -> None:
    behaviour, code = UNUSABLE[kind]
    model.script(behaviour)
    body = failed(compact(server, headers={"Idempotency-Key": "k"}), 502, code)
    trace = server.trace(body["trace_id"])
    assert (trace["status"], trace["error_code"], nano(trace["total_cost"])) == ("error", code, PRICED)
    assert claims() == []
    assert_balanced()


@pytest.mark.parametrize("text", ["a\x00b", "\ufffe\uffff\u2028", "😀" * 50_000], ids=["NUL", "no characters", "long"])
def test_a_hostile_summary_can_be_sent_back(server: Server, model: FakeProvider, text: str) -> None:
    model.script(reply(text))
    body = done(compact(server))
    assert done(server.send("Go on", messages=body["compacted_messages"]))
    assert_balanced()


# --- Governance ----------------------------------------------------------------------------------------------------


def test_the_trace(server: Server, backend: Backend, model: FakeProvider) -> None:
    model.script(reply(f"Write to {PRIVATE}."))
    body = done(compact(server, say("user", f"I am {PRIVATE}"), keep_recent=0, metadata={"order": PRIVATE}))
    assert body["compacted_messages"][0]["content"] == f"{SUMMARY_HEADING}\nWrite to {PRIVATE}."
    assert PRIVATE in transcript(model)
    trace = server.trace(body["trace_id"])
    assert (trace["kind"], trace["agent_id"], trace["status"]) == ("compact", "compact", "success")
    assert (trace["redactions"], PRIVATE in json.dumps(trace)) == (3, False)
    assert PRIVATE not in server.get("/audit").text
    started, completed = server.audit(trace_id=body["trace_id"])
    assert (started["event_type"], completed["event_type"]) == ("agent.start", "agent.complete")
    assert started["actor"] == "agent:compact"
    assert backend.calls == []


def test_the_budget(server: Server, model: FakeProvider) -> None:
    server.set_budget(limit=0.000_000_001)
    body = failed(compact(server), 402, "budget_exceeded")
    assert server.trace(body["trace_id"])["kind"] == "compact"
    assert model.requests == []
    server.set_budget(limit=1)
    done(compact(server))
    assert nano(server.budget()["spent"]) == PRICED
    assert_balanced()


def test_the_same_request_gets_the_same_answer(server: Server, model: FakeProvider) -> None:
    headers = {"Idempotency-Key": "compact-1"}
    first, again = (compact(server, headers=headers) for _ in range(2))
    assert done(again) == done(first)
    assert again.headers["Idempotency-Replayed"] == "true"
    failed(compact(server, keep_recent=0, headers=headers), 409, "idempotency_mismatch")
    assert len(model.requests) == 1


def test_the_callers_trace_id_is_taken_over(server: Server, model: FakeProvider) -> None:
    response = compact(server, headers={"X-Trace-Id": TRACE_ID})
    assert done(response)["trace_id"] == response.headers["X-Trace-Id"] == TRACE_ID
    failed(compact(server, headers={"X-Trace-Id": TRACE_ID}), 409, "trace_id_in_use")


@pytest.mark.parametrize("keep", [0, 6], ids=["summarised", "unchanged"])
def test_another_tenants_name_is_refused(server: Server, model: FakeProvider, keep: int) -> None:
    body = failed(compact(server, key=tenant_key(GLOBEX), keep_recent=keep), 403, "permission_denied")
    assert body["details"] == {"permission": "tenant"}
    assert model.requests == []


@pytest.mark.parametrize(
    ("fields", "key", "tenant"),
    [({}, "", "default"), ({"user_id": "u-7"}, "", "u-7"), ({}, GLOBEX, GLOBEX), ({"user_id": ACME}, GLOBEX, GLOBEX)],
    ids=["nobody", "user", "key", "key and user"],
)
def test_whose_compaction_it_is(
    server: Server, model: FakeProvider, fields: dict[str, Any], key: str, tenant: str
) -> None:
    body = done(compact(server, key=tenant_key(key) if key else None, tenant_id=None, **fields))
    assert server.trace(body["trace_id"])["tenant_id"] == tenant


def test_the_offline_model_summarises(server: Server) -> None:
    body = done(compact(server, *TOOLS, keep_recent=0))
    assert summaries(body)
    assert body["compacted_count"] == 1
