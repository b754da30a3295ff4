"""POST /traces/diff: stored runs, compared over a socket."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from apps.traces.domain.diff import diff_traces, summary_sentence
from apps.traces.domain.record import Redacted, Step, StepType, TraceEnd, TraceRisk, TraceStart
from apps.traces.domain.views import StepView, TraceDetail
from apps.traces.services.recording import add_steps, close_trace, open_trace
from clasper.core.db import atomic_batch
from clasper.core.ids import new_id
from clasper.core.money import NanoUSD
from clasper.core.usage import Usage
from tests.contracts.shapes import example
from tests.traces.compared import SAMPLE, START, detail, within
from tests.world import ACME, GLOBEX, Server, tenant_key


def stored(seen: TraceDetail, *, running: bool = False, tenant_id: str = ACME) -> str:
    """Writes the run as the engine does, under a new id; gives the id."""
    trace_id = new_id()
    opening = TraceStart(
        id=trace_id,
        tenant_id=tenant_id,
        workspace_id=seen.workspace_id,
        environment=seen.environment,
        agent_id=seen.agent_id,
        user_id=seen.user_id,
        kind=seen.kind,
        provider=seen.provider,
        model=seen.model,
        snapshot_hash=seen.snapshot_hash,
        risk=TraceRisk(score=10, level="low", factors={}),
        skills=seen.skill_versions,
        labels={},
        input=Redacted(seen.input, {}),
        started_at=START,
        lease_until=START + timedelta(minutes=2),
    )
    with atomic_batch() as batch:
        assert open_trace(opening)(batch)
        add_steps(tenant_id=tenant_id, trace_id=trace_id, steps=map(_step, seen.steps))(batch)
    if not running:
        closing = TraceEnd(
            id=trace_id,
            tenant_id=tenant_id,
            status="success",
            ended_at=START + timedelta(seconds=2),
            duration_ms=2000,
            provider=seen.provider,
            model=seen.model,
            usage=Usage(input=seen.usage.prompt_tokens, output=seen.usage.completion_tokens),
            cost=NanoUSD(seen.cost),
            price_version="test",
            estimated=False,
            output=seen.output["response"],
        )
        with atomic_batch() as batch:
            assert close_trace(closing)(batch)
    return trace_id


def _step(seen: StepView) -> Step:
    kinds: dict[str, StepType] = {"llm_call": "llm_call", "tool_call": "tool_call", "error": "error"}
    return Step(
        seq=seen.seq,
        type=kinds[seen.type],
        name=seen.name,
        status=seen.status,
        started_at=seen.started_at,
        duration_ms=seen.duration_ms,
        input=seen.input,
        output=seen.output,
    )


def asked(server: Server, base: str, compare: str, *, key: str | None = None, **body: Any) -> dict[str, Any]:
    response = server.post("/traces/diff", {"base_trace_id": base, "compare_trace_id": compare, **body}, key=key)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_stored_runs_come_out_as_the_sample(server: Server) -> None:
    base, compare = map(stored, SAMPLE)
    sample = example("traces_diff")
    request = {**example("traces_diff", "request"), "base_trace_id": base, "compare_trace_id": compare}
    answer = server.post("/traces/diff", request, key=tenant_key(ACME, "traces:read"))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["diff"]["traceIds"] == {"base": base, "compare": compare}
    body["diff"]["traceIds"] = sample["diff"]["traceIds"]
    assert within(sample["diff"], body["diff"]), body
    wanted = summary_sentence(diff_traces(*SAMPLE)).replace("trace-id-1", base).replace("trace-id-2", compare)
    assert body["summary_text"] == wanted


def test_the_sentence_and_the_texts_are_given_when_wanted(server: Server) -> None:
    base, compare = stored(detail()), stored(detail(output={"response": "Ho"}))
    plain = asked(server, base, compare)
    assert "summary_text" in plain
    assert "textDiff" not in plain["diff"]["output"]
    full = asked(server, base, compare, include_summary=False, include_output_diff=True)
    assert "summary_text" not in full
    assert full["diff"]["output"]["textDiff"] == {"lines": ["@@ -1,1 +1,1 @@", "-Hi", "+Ho"], "truncated": False}


def test_a_run_with_itself_and_with_one_under_way(server: Server) -> None:
    done, running = stored(detail()), stored(detail(), running=True)
    same = asked(server, done, done.upper())["diff"]
    assert same["summary"]["totalDifferences"] == 0
    assert same["traceIds"] == {"base": done, "compare": done}
    found = asked(server, done, running)["diff"]
    assert found["timing"] == {
        "baseDurationMs": 2000,
        "compareDurationMs": None,
        "deltaMs": None,
        "percentChange": None,
    }
    assert found["output"]["compareHasOutput"] is False


def test_a_missing_or_foreign_run_is_named(server: Server) -> None:
    own, foreign, unknown = stored(detail()), stored(detail(), tenant_id=GLOBEX), new_id()
    key = tenant_key(ACME)
    for base, compare, missing in (
        (own, foreign, {"compare_trace_id": foreign}),
        (unknown, own, {"base_trace_id": unknown}),
        (foreign, "x", {"base_trace_id": foreign, "compare_trace_id": "x"}),
    ):
        body = {"base_trace_id": base, "compare_trace_id": compare}
        response = server.post("/traces/diff", body, key=key)
        assert (response.status_code, response.json()["code"]) == (404, "not_found"), response.text
        assert response.json()["details"] == {"missing": missing}
    body = {"base_trace_id": own, "compare_trace_id": foreign}
    assert server.post("/traces/diff", {**body, "tenant_id": ACME}).status_code == 404
    assert server.post("/traces/diff", body).status_code == 200, "the platform sees both"
    refused = server.post("/traces/diff", {**body, "tenant_id": GLOBEX}, key=key)
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
    denials = [each for each in server.audit(tenant_id=ACME) if each["event_type"] == "permission.denied"]
    assert [each["details"]["permission"] for each in denials] == ["tenant"]


FAULTY: dict[str, tuple[dict[str, Any], set[str]]] = {
    "empty": ({}, {"base_trace_id", "compare_trace_id"}),
    "all wrong": (
        {"base_trace_id": [], "compare_trace_id": "x" * 65, "include_summary": "perhaps", "include_output_diff": 7},
        {"base_trace_id", "compare_trace_id", "include_summary", "include_output_diff"},
    ),
    "null and blank": ({"base_trace_id": "", "compare_trace_id": None}, {"base_trace_id", "compare_trace_id"}),
}


@pytest.mark.parametrize("name", FAULTY)
def test_all_errors_are_reported_at_once(name: str, server: Server) -> None:
    body, fields = FAULTY[name]
    response = server.post("/traces/diff", body)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request"), response.text
    assert set(response.json()["details"]["fieldErrors"]) == fields
