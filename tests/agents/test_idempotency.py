"""Idempotency-Key: the same request twice is one run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from apps.agents.delivery.outbox import deliver_due
from apps.agents.delivery.sweeper import sweep
from apps.agents.models import StoredResponse
from clasper.core.clock import utc_now
from fakes.llm import FakeProvider, error, reply
from tests.agents.backend import MESSAGES, Backend, answers
from tests.agents.ledger import assert_balanced, claims
from tests.conftest import run
from tests.world import ACME, GLOBEX, Server, send_body, tenant_key

KEY = {"Idempotency-Key": "order-7"}


def test_the_same_request_gets_the_same_answer(server: Server, backend: Backend, openai: FakeProvider) -> None:
    openai.script(reply("Once."))
    first = server.send("Hello", headers=KEY)
    again = server.send("Hello", headers=KEY)
    assert first.status_code == again.status_code == 200
    assert again.json() == first.json()
    assert again.headers["X-Trace-Id"] == first.headers["X-Trace-Id"]
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(openai.requests) == 1
    assert len(backend.messages) == 1
    assert_balanced()


def test_a_stream_is_repeated_from_its_answer(server: Server, backend: Backend, openai: FakeProvider) -> None:
    openai.script(reply("Once upon a time."))
    first = server.stream("Hello", headers=KEY)
    again = server.stream("Hello", headers=KEY)
    assert [event.name for event in again] == ["start", "chunk", "done"]
    assert again[1].data["data"] == "Once upon a time."
    assert again[-1] == first[-1]
    assert len(openai.requests) == 1
    assert_balanced()


@pytest.mark.parametrize(
    "change",
    [{"message": "Other"}, {"task_title": "Other"}, {"metadata": {"model": "gpt-4o"}}, {"user_id": None}],
    ids=["message", "task", "model", "user"],
)
def test_another_request_under_the_key_is_refused(
    server: Server, backend: Backend, openai: FakeProvider, change: dict[str, Any]
) -> None:
    if "user_id" in change:
        change = {"user_id": "u-2", "session_key": "user:u-2:support"}
    first = server.send("Hello", headers=KEY)
    other = server.send(**{"message": "Hello", "headers": KEY, **change})
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_mismatch")
    assert other.json()["trace_id"] == first.json()["trace_id"]
    assert len(openai.requests) == 1


def test_the_order_of_a_bodys_keys_does_not_matter(server: Server, backend: Backend, openai: FakeProvider) -> None:
    body = send_body("Hello")
    first = server.post("/api/agents/send", body, headers=KEY)
    again = server.post("/api/agents/send", dict(reversed(body.items())), headers=KEY)
    assert again.json() == first.json()
    assert len(openai.requests) == 1


def test_a_run_under_way_is_named(server: Server, backend: Backend, openai: FakeProvider) -> None:
    openai.script(reply("Slow.", delay=0.3))
    with ThreadPoolExecutor() as pool:
        first = pool.submit(server.send, "Hello", headers=KEY)
        run(openai.arrived())
        again = server.send("Hello", headers=KEY)
        assert (again.status_code, again.json()["code"]) == (409, "in_progress")
        assert again.json()["trace_id"] == first.result().json()["trace_id"]
    assert server.send("Hello", headers=KEY).json() == first.result().json()
    assert len(openai.requests) == 1


def test_of_many_at_once_one_runs(server: Server, backend: Backend, openai: FakeProvider) -> None:
    openai.default = reply("One.", delay=0.1)
    with ThreadPoolExecutor(12) as pool:
        responses = list(pool.map(lambda _: server.send("Hello", headers=KEY), range(12)))
    codes = sorted(response.status_code for response in responses)
    assert codes.count(200) >= 1
    assert set(codes) <= {200, 409}
    assert len(openai.requests) == 1
    assert len(backend.messages) == 1
    assert_balanced()


@pytest.mark.parametrize("failure", [error(401), reply("", finish="length")], ids=["refused", "cut off"])
def test_a_failed_run_frees_its_key(server: Server, backend: Backend, openai: FakeProvider, failure: Any) -> None:
    openai.script(failure, reply("Now."))
    assert server.send("Hello", headers=KEY).status_code == 502
    assert claims() == []
    assert server.send("Hello", headers=KEY).json()["response"] == "Now."
    assert len(openai.requests) == 2


def test_a_refused_run_takes_no_key(server: Server, backend: Backend, openai: FakeProvider) -> None:
    server.set_budget(limit=0.000000001)
    assert server.send("Hello", headers=KEY).status_code == 402
    assert claims() == []
    server.set_budget(limit=1)
    assert server.send("Hello", headers=KEY).status_code == 200


def test_an_answer_the_backend_has_not_taken_is_not_given_out_yet(
    server: Server, backend: Backend, openai: FakeProvider
) -> None:
    """A retry must not look delivered before it is; once it is, the client gets what it paid for."""
    backend.on(MESSAGES, answers(404))
    first = server.send("Hello", headers=KEY)
    again = server.send("Hello", headers=KEY)
    for response in (first, again):
        assert (response.status_code, response.json()["code"]) == (502, "backend_error")
    assert again.json()["trace_id"] == first.json()["trace_id"]
    backend.on(MESSAGES)
    run(deliver_due(now=utc_now() + timedelta(hours=1)))
    assert server.send("Hello", headers=KEY).status_code == 200
    assert len(openai.requests) == 1
    assert len(backend.messages) == 1


def test_the_stored_answer_cannot_be_read(server: Server, backend: Backend, openai: FakeProvider) -> None:
    openai.script(reply("The secret answer."))
    server.send("Hello", headers=KEY)
    (row,) = claims()
    assert row.sealed is not None
    assert b"secret" not in bytes(row.sealed)
    assert "order-7" not in row.key


def test_an_answer_is_kept_for_a_day(server: Server, backend: Backend, openai: FakeProvider) -> None:
    server.send("Hello", headers=KEY)
    run(sweep(now=utc_now() + timedelta(hours=23)))
    assert len(claims()) == 1
    run(sweep(now=utc_now() + timedelta(hours=25)))
    assert claims() == []


def test_an_expired_key_is_free_before_it_is_swept(server: Server, backend: Backend, openai: FakeProvider) -> None:
    first = server.send("Hello", headers=KEY)
    StoredResponse.objects.update(expires_at=utc_now() - timedelta(seconds=1))
    again = server.send("Hello", headers=KEY)
    assert again.json()["trace_id"] != first.json()["trace_id"]
    assert len(openai.requests) == 2


def test_a_key_belongs_to_its_tenant(server: Server, backend: Backend, openai: FakeProvider) -> None:
    openai.script(reply("For acme."), reply("For globex."))
    acme = server.send("Hello", tenant_id=None, key=tenant_key(ACME), headers=KEY)
    globex = server.send("Hello", tenant_id=None, key=tenant_key(GLOBEX), headers=KEY)
    assert [acme.json()["response"], globex.json()["response"]] == ["For acme.", "For globex."]
    assert server.send("Hello", tenant_id=None, key=tenant_key(ACME), headers=KEY).json() == acme.json()


def test_an_answer_that_no_longer_opens_is_an_error_of_ours(
    server: Server, backend: Backend, openai: FakeProvider
) -> None:
    """The key outside the database was changed: nothing is run again under a key that has its answer."""
    server.send("Hello", headers=KEY)
    StoredResponse.objects.update(sealed=b"sealed with another key")
    response = server.send("Hello", headers=KEY)
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert len(openai.requests) == 1


def test_another_kind_of_run_under_the_key_is_refused(server: Server, backend: Backend, openai: FakeProvider) -> None:
    """One body may be valid for several endpoints; the answer of one does not fit the response of another."""
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]
    body = {**send_body("Hello"), "prompt": "Hello", "messages": turns, "keep_recent": 1}
    openai.default = reply("Once.")
    first = server.post("/api/agents/send", body, headers=KEY)
    for path in ("/llm-task", "/compact"):
        other = server.post(path, body, headers=KEY)
        assert (other.status_code, other.json()["code"]) == (409, "idempotency_mismatch")
    same = server.post("/api/agents/stream", body, headers=KEY)
    assert "Once." in same.text, "a stream is another way to receive the same answer"
    assert first.status_code == 200
    assert len(openai.requests) == 1
    summary = server.post("/compact", body, headers={"Idempotency-Key": "other"})
    assert summary.status_code == 200
    refused = server.post("/api/agents/send", body, headers={"Idempotency-Key": "other"})
    assert refused.json()["code"] == "idempotency_mismatch"
