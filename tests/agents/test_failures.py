"""A provider that fails: the right status, the money settled, nothing posted, and a trace that tells each attempt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from apps.traces.models import Trace
from fakes.llm import (
    Behaviour,
    FakeProvider,
    error,
    garbage,
    half_stream,
    raw,
    reply,
    reset,
    silence,
    tool_calls,
)
from tests.agents.backend import Backend, Receiver
from tests.agents.ledger import assert_balanced, deliveries, nano
from tests.conftest import run
from tests.world import Server, send_body

FALLBACK = "gpt-4o"
USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
PRICED = 100 * 150 + 20 * 600
"""What USAGE costs at gpt-4o-mini's 0.15 and 0.60 USD a million tokens, in nano-USD."""


@dataclass(frozen=True)
class Answer:
    """How a run ended, in the same words for both endpoints."""

    status: int
    body: dict[str, Any]

    @property
    def code(self) -> str:
        return str(self.body.get("code", ""))


def ask(server: Server, endpoint: str, **body: Any) -> Answer:
    """A run by `send` or by `stream`; the status of a stream is that of its last event."""
    if endpoint == "send":
        response = server.send("Hello", **body)
        return Answer(response.status_code, response.json())
    response = server.post("/api/agents/stream", send_body("Hello", **body))
    if response.status_code != 200:
        return Answer(response.status_code, response.json())
    last = [block for block in response.text.split("\n\n") if block][-1].splitlines()
    data = msgspec.json.decode(last[1].removeprefix("data: "))
    return Answer(200 if last[0] == "event: done" else 0, data)


def refusal(text: str) -> Behaviour:
    """The model refuses in the API's own words for it."""
    message = {"role": "assistant", "content": None, "refusal": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"object": "chat.completion", "model": "m", "choices": [choice], "usage": USAGE}
    return raw(msgspec.json.encode(body))


def no_such_model() -> Behaviour:
    return error(404, {"error": {"message": "No such model", "code": "model_not_found"}})


def too_long() -> Behaviour:
    return error(400, {"error": {"message": "Too long", "code": "context_length_exceeded"}})


@dataclass(frozen=True)
class Case:
    """A failure. `attempts` are the model calls as the trace shows them; `cost` is exact, in nano-USD."""

    id: str
    script: tuple[Behaviour, ...]
    status: int
    code: str
    attempts: tuple[str, ...]
    cost: int = 0
    trace_status: str = "error"
    timeout_ms: int = 5000
    endpoints: tuple[str, ...] = ("send", "stream")


def priced(id_: str, behaviour: Behaviour, code: str, finish: str) -> Case:
    return Case(id_, (behaviour,), 502, code, (finish,), PRICED)


CASES = [
    Case("reset", (reset(),) * 3, 502, "provider_error", ("connection",) * 3),
    Case("unauthorised", (error(401),), 502, "provider_error", ("auth",)),
    Case("forbidden", (error(403),), 502, "provider_error", ("auth",)),
    Case("bad request", (error(400),), 502, "provider_error", ("invalid_request",)),
    Case("limited for ever", (error(429),) * 3, 502, "provider_error", ("rate_limited",) * 3),
    Case(
        "limited for too long",
        (error(429, headers={"Retry-After": "60"}),),
        502,
        "provider_error",
        ("rate_limited",),
    ),
    Case("broken for ever", (error(500),) * 3, 502, "provider_error", ("unavailable",) * 3),
    Case("overloaded", (error(529),) * 3, 502, "provider_error", ("unavailable",) * 3),
    Case("error page", (error(503, "<html>down</html>"),) * 3, 502, "provider_error", ("unavailable",) * 3),
    Case("garbage", (garbage(),) * 3, 502, "provider_error", ("bad_response",) * 3, endpoints=("send",)),
    Case("empty body", (raw(b""),) * 3, 502, "provider_error", ("bad_response",) * 3),
    Case("no choices", (raw(b'{"choices": []}'),) * 3, 502, "provider_error", ("bad_response",) * 3),
    Case("half an answer", (half_stream(0),) * 3, 502, "provider_error", ("connection",) * 3),
    Case("silence", (silence(3),), 504, "timeout", ("timeout",), 0, "timeout", timeout_ms=150),
    Case("too long", (too_long(),), 400, "context_too_long", ("context_too_long",)),
    Case("default model unknown", (no_such_model(),), 502, "provider_error", ("unknown_model",)),
    priced("refusal", refusal("I will not."), "provider_refused", "refusal"),
    priced("content filter", reply("Well", finish="content_filter", usage=USAGE), "content_filtered", "content_filter"),
    priced("cut off", reply("Once upon", finish="length", usage=USAGE), "output_truncated", "length"),
    priced("empty", reply("", usage=USAGE), "empty_answer", "stop"),
    priced("blank", reply(" \n ", usage=USAGE), "empty_answer", "stop"),
]
PARAMETERS = [pytest.param(case, endpoint, id=f"{case.id}-{endpoint}") for case in CASES for endpoint in case.endpoints]


@pytest.mark.parametrize(("case", "endpoint"), PARAMETERS)
def test_a_failure_is_reported_and_settled(
    server: Server, backend: Backend, receiver: Receiver, openai: FakeProvider, settings: Any, case: Case, endpoint: str
) -> None:
    settings.CLASPER_RUN_TIMEOUT_MS = case.timeout_ms
    server.set_budget(limit=1)
    openai.script(*case.script)
    answer = ask(server, endpoint, webhook={"url": receiver.url})
    assert answer.code == case.code, answer
    assert answer.status == (case.status if endpoint == "send" else 0)
    assert len(openai.requests) == len(case.script)

    trace = server.trace(answer.body["trace_id"])
    assert (trace["status"], trace["error_code"]) == (case.trace_status, case.code)
    assert trace["error"]
    assert nano(trace["total_cost"]) == case.cost
    steps = [(step["code"], step["attempt"]) for step in trace["steps"] if step["type"] == "llm_call"]
    assert steps == [(code, n + 1) for n, code in enumerate(case.attempts)]
    assert backend.messages == []
    assert server.budget()["reserved"] == 0
    assert nano(server.budget()["spent"]) == case.cost
    assert_balanced()

    events = server.audit(trace_id=trace["id"])
    assert [event["event_type"] for event in events] == ["agent.start", "agent.error"]
    assert events[-1]["details"]["code"] == case.code
    assert [(row.kind, row.status) for row in deliveries()] == [("webhook", "pending")]
    run(deliver())
    ((_, body),) = receiver.received
    told = msgspec.json.decode(body)
    assert (told["event"], told["code"], told["response"]) == ("agent.error", case.code, "")
    assert told["trace_id"] == trace["id"]
    assert nano(told["cost"]["totalCost"]) == case.cost


async def deliver() -> None:
    from apps.agents.delivery.outbox import deliver_due
    from clasper.core.clock import utc_now

    await deliver_due(now=utc_now())


def test_a_provider_that_is_not_there(
    server: Server, backend: Backend, openai: FakeProvider, settings: Any, unused_tcp_port: int
) -> None:
    settings.OPENAI_BASE_URL = f"http://127.0.0.1:{unused_tcp_port}/v1"
    for endpoint in ("send", "stream"):
        answer = ask(server, endpoint)
        assert answer.code == "provider_error"
        steps = server.trace(answer.body["trace_id"])["steps"]
        assert [step["code"] for step in steps] == ["connection"] * 3
    assert backend.messages == []
    assert_balanced()


@dataclass(frozen=True)
class Recovery:
    """A failure that retries or the fallback cure; `steps` are (model, code)."""

    id: str
    script: tuple[Behaviour, ...]
    steps: tuple[tuple[str, str], ...]
    fallback: bool = True


MINI = "gpt-4o-mini"
GOOD = reply("Fine.", usage=USAGE)
RECOVERIES = [
    Recovery("429", (error(429, headers={"Retry-After": "0.01"}), GOOD), ((MINI, "rate_limited"), (MINI, "stop"))),
    Recovery("500", (error(500), GOOD), ((MINI, "unavailable"), (MINI, "stop"))),
    Recovery("reset", (reset(), GOOD), ((MINI, "connection"), (MINI, "stop")), fallback=False),
    Recovery("twice", (error(408), error(502), GOOD), ((MINI, "timeout"), (MINI, "unavailable"), (MINI, "stop"))),
    Recovery("500 thrice", (*(error(500),) * 3, GOOD), (*((MINI, "unavailable"),) * 3, (FALLBACK, "stop"))),
    Recovery("unknown model", (no_such_model(), GOOD), ((MINI, "unknown_model"), (FALLBACK, "stop"))),
    Recovery("too long", (too_long(), GOOD), ((MINI, "context_too_long"), (FALLBACK, "stop"))),
]


@pytest.mark.parametrize("endpoint", ["send", "stream"])
@pytest.mark.parametrize("case", RECOVERIES, ids=lambda case: case.id)
def test_a_failure_that_is_cured(
    server: Server, backend: Backend, openai: FakeProvider, settings: Any, case: Recovery, endpoint: str
) -> None:
    settings.LLM_MODEL_FALLBACK = FALLBACK if case.fallback else ""
    server.set_budget(limit=1)
    openai.script(*case.script)
    answer = ask(server, endpoint)
    assert (answer.status, answer.body["response"]) == (200, "Fine."), answer
    trace = server.trace(answer.body["trace_id"])
    assert tuple((step["model"], step["code"]) for step in trace["steps"]) == case.steps
    assert trace["status"] == "success"
    assert trace["model"] == answer.body["cost"]["model"] == case.steps[-1][0]
    assert [exchange.body["model"] for exchange in openai.requests] == [model for model, _ in case.steps]
    assert [message["content"] for message in backend.messages] == ["Fine."]
    assert nano(server.budget()["spent"]) == nano(answer.body["cost"]["totalCost"]) > 0
    assert_balanced()


@pytest.mark.parametrize("endpoint", ["send", "stream"])
@pytest.mark.parametrize("failure", [error(401), error(400)], ids=["unauthorised", "bad request"])
def test_another_model_is_not_asked_when_it_cannot_help(
    server: Server, backend: Backend, openai: FakeProvider, settings: Any, failure: Behaviour, endpoint: str
) -> None:
    settings.LLM_MODEL_FALLBACK = FALLBACK
    openai.script(failure)
    assert ask(server, endpoint).code == "provider_error"
    assert len(openai.requests) == 1
    assert_balanced()


@pytest.mark.parametrize("endpoint", ["send", "stream"])
def test_a_run_stays_with_the_model_that_answered(
    server: Server, openai: FakeProvider, settings: Any, endpoint: str
) -> None:
    """The fallback that called a tool is told its result, and every call costs what its own model costs."""
    settings.LLM_MODEL_FALLBACK = FALLBACK
    wanted = tool_calls(("orders_lookup", '{"order_id": "ORD-1002"}'), usage=USAGE)
    openai.script(no_such_model(), wanted, reply("On its way.", usage=USAGE))
    answer = ask(server, endpoint)
    assert answer.status == 200
    assert [exchange.model for exchange in openai.requests] == ["gpt-4o-mini", FALLBACK, FALLBACK]
    trace = Trace.objects.get(id=answer.body["trace_id"])
    assert trace.cost == 2 * (100 * 2_500 + 20 * 10_000)  # gpt-4o: 2.50 and 10.00 USD a million tokens
    assert_balanced()


def test_retry_after_is_waited_for(server: Server, backend: Backend, openai: FakeProvider) -> None:
    openai.script(error(429, headers={"Retry-After": "0.4"}), GOOD)
    assert ask(server, "send").status == 200
    first, second = openai.requests
    assert second.started - first.started >= 0.4


def test_the_fallback_must_be_permitted_and_affordable(
    server: Server, backend: Backend, openai: FakeProvider, settings: Any
) -> None:
    """A fallback dearer than what is left ends the run with the budget's refusal, and its money is free again."""
    settings.LLM_MODEL_FALLBACK = "o1-pro"
    server.set_budget(limit=0.005)
    openai.script(error(500), error(500), error(500))
    answer = ask(server, "send")
    assert (answer.status, answer.code) == (402, "budget_exceeded")
    assert len(openai.requests) == 3
    events = [event["event_type"] for event in server.audit(trace_id=answer.body["trace_id"])]
    assert events == ["agent.start", "budget.exceeded", "agent.error"]
    assert_balanced()


# --- Streams that break after their first words -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "code", "status"),
    [
        (half_stream(3), "provider_error", "error"),
        (half_stream(3, abort=False), "provider_error", "error"),
        (garbage(), "provider_error", "error"),
        (silence(3, after_chunks=3), "timeout", "timeout"),
    ],
    ids=["broken", "ended", "garbage", "silent"],
)
def test_a_stream_that_breaks_is_not_started_again(
    server: Server,
    backend: Backend,
    openai: FakeProvider,
    settings: Any,
    behaviour: Behaviour,
    code: str,
    status: str,
) -> None:
    """What was shown cannot be taken back: no retry, no fallback; what arrived is paid for by estimate."""
    settings.LLM_MODEL_FALLBACK = FALLBACK
    settings.CLASPER_RUN_TIMEOUT_MS = 300 if status == "timeout" else 5000
    server.set_budget(limit=1)
    openai.script(behaviour)
    events = server.stream("Hello")
    assert [event.name for event in events if event.name != "chunk"] == ["start", "error"]
    assert events[1].name == "chunk"
    assert events[-1].data["code"] == code
    assert len(openai.requests) == 1
    trace = server.trace(events[-1].data["trace_id"])
    assert trace["status"] == status
    assert trace["estimated"]
    assert trace["total_cost"] > 0
    assert nano(server.budget()["spent"]) == nano(trace["total_cost"])
    assert backend.messages == []
    assert_balanced()


# --- Failures in the middle of a tool loop ---------------------------------------------------------------------------


def test_what_was_paid_before_a_failure_stays_paid(server: Server, backend: Backend, openai: FakeProvider) -> None:
    backend.tools["orders:lookup"] = lambda arguments: {"found": True}
    server.set_budget(limit=1)
    openai.script(tool_calls(("orders:lookup", "{}"), usage=USAGE), error(401))
    answer = ask(server, "send")
    assert (answer.status, answer.code) == (502, "provider_error")
    trace = server.trace(answer.body["trace_id"])
    assert [step["type"] for step in trace["steps"]] == ["llm_call", "tool_call", "llm_call"]
    assert nano(trace["total_cost"]) == PRICED
    assert_balanced()


def test_the_deadline_is_of_the_whole_run(
    server: Server, backend: Backend, openai: FakeProvider, settings: Any
) -> None:
    """Retries do not prolong it."""
    settings.CLASPER_RUN_TIMEOUT_MS = 400
    settings.CLASPER_RETRY_DELAY_MS = 150
    settings.CLASPER_RETRY_ATTEMPTS = 50
    openai.default = error(500)
    answer = ask(server, "send")
    assert answer.code in ("provider_error", "timeout")
    trace = server.trace(answer.body["trace_id"])
    assert trace["duration_ms"] < 1000
    assert 2 <= len(openai.requests) < 10
    assert Trace.objects.get().status != "running"
    assert_balanced()
