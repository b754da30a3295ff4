"""Comparing two runs: the sections, what matters of them, where the runs part, and the sentence that tells it."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.traces.domain.diff import diff_traces, step_digests, summary_sentence
from apps.traces.domain.record import Closing, Opening, Redacted, Risk, Step, StepType
from apps.traces.domain.views import StepView, TraceDetail, TraceSummary
from apps.traces.services.recording import add_steps, close_trace, open_trace
from clasper.core.db import atomic_batch
from clasper.core.ids import new_id
from clasper.core.money import NanoUSD
from clasper.core.usage import Usage
from tests.contracts.shapes import example
from tests.world import ACME, GLOBEX, Server, tenant_key

START = datetime(2026, 2, 10, 12, 0, tzinfo=UTC)


def step(seq: int, kind: str, name: str, **facts: Any) -> StepView:
    standing: dict[str, Any] = {
        "provider": "",
        "status": "ok",
        "code": "",
        "started_at": START,
        "duration_ms": 5,
        "attempt": 1,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "cost": 0,
        "input": None,
        "output": None,
    }
    return StepView(seq=seq, type=kind, name=name, **{**standing, **facts})


def searches(number: int, first: int = 2, **facts: Any) -> list[StepView]:
    return [step(first + n, "tool_call", "search", input={"n": n}, output=[n], **facts) for n in range(number)]


def detail(trace_id: str = "trace-id-1", *, steps: list[StepView] | None = None, **facts: Any) -> TraceDetail:
    """A run that ended well; `facts` are fields of the trace or of its summary."""
    summary: dict[str, Any] = {
        "id": trace_id,
        "tenant_id": ACME,
        "workspace_id": "default",
        "environment": "prod",
        "agent_id": "support",
        "user_id": "u-1",
        "kind": "send",
        "status": "success",
        "error_code": "",
        "started_at": START,
        "ended_at": START + timedelta(seconds=2),
        "duration_ms": 2000,
        "provider": "openai",
        "model": "gpt-4",
        "prompt_tokens": 1200,
        "completion_tokens": 300,
        "cost": 50_000_000,
        "estimated": False,
        "risk_score": 10,
        "risk_level": "low",
        "labels": {},
    }
    own: dict[str, Any] = {
        "error": "",
        "workspace_hash": "sha256:0",
        "price_version": "test",
        "risk_factors": {},
        "redactions": 0,
        "cached_tokens": 0,
        "cache_write_tokens": 0,
        "reasoning_tokens": 0,
        "task_id": "",
        "message_id": "",
        "document_id": "",
        "annotations": (),
        "replay_of": "",
        "storage_mode": "full",
        "skill_versions": {"summarize": "1.0.0"},
        "input": {"message": "Hello"},
        "output": {"response": "Hi"},
        "steps": tuple(steps if steps is not None else [step(1, "llm_call", facts.get("model", "gpt-4"))]),
    }
    return TraceDetail(
        summary=TraceSummary(**{name: facts.pop(name, value) for name, value in summary.items()}), **{**own, **facts}
    )


SAMPLE = (
    detail("trace-id-1", steps=[step(1, "llm_call", "gpt-4"), *searches(3)]),
    detail(
        "trace-id-2",
        model="gpt-4o-mini",
        cost=10_000_000,
        skill_versions={"summarize": "1.1.0"},
        steps=[step(1, "llm_call", "gpt-4o-mini"), *searches(2)],
    ),
)


def within(sample: Any, actual: Any) -> bool:
    """The sample's keys, at every depth, with exactly its values."""
    if isinstance(sample, dict):
        return isinstance(actual, dict) and all(key in actual and within(sample[key], actual[key]) for key in sample)
    return bool(sample == actual and isinstance(actual, type(sample)))


def test_the_sample_comes_out() -> None:
    wanted, found = example("traces_diff"), diff_traces(*SAMPLE)
    assert within(wanted["diff"], found), found
    assert summary_sentence(found) == (
        "Compared traces trace-id-1 vs trace-id-2: Model changed (gpt-4 → gpt-4o-mini), cost decreased by 80%,"
        " skills changed (summarize 1.0.0 → 1.1.0)."
    )
    assert summary_sentence(found).startswith(wanted["summary_text"].removesuffix("..."))


# --- What differs, and what matters -----------------------------------------------------------------------------------

CALLED = [step(1, "llm_call", "gpt-4"), *searches(1)]
FAILED = {"status": "error", "error_code": "timeout", "error": "Too late"}
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any], int, list[str], str]] = {
    "nothing": ({}, {}, 0, [], "no significant differences"),
    "model": ({}, {"model": "o3"}, 1, ["model"], "Model changed (gpt-4 → o3)"),
    "provider": ({}, {"provider": "azure"}, 1, ["provider"], "Provider changed (openai → azure)"),
    "no model yet": ({"model": ""}, {}, 1, ["model"], "Model changed (none → gpt-4)"),
    "cost at a fifth": ({"cost": 100}, {"cost": 120}, 1, [], "no significant differences"),
    "cost over a fifth": ({"cost": 1000}, {"cost": 1201}, 1, ["cost"], "Cost increased by 20.1%"),
    "cost under a fifth": ({"cost": 3}, {"cost": 1}, 1, ["cost"], "Cost decreased by 66.67%"),
    "cost from nothing": ({"cost": 0}, {"cost": 9}, 1, [], "no significant differences"),
    "workspace": ({}, {"workspace_hash": "sha256:1"}, 1, ["workspace"], "Workspace changed"),
    "workspace unknown": ({}, {"workspace_hash": ""}, 1, ["workspace"], "Workspace changed"),
    "skill added": ({}, {"skill_versions": {"summarize": "1.0.0", "x": "1"}}, 1, [], "no significant differences"),
    "skill removed": ({}, {"skill_versions": {}}, 1, [], "no significant differences"),
    "tool appears": ({}, {"steps": CALLED}, 1, ["tool_calls"], "Tool calls changed (added search)"),
    "tool disappears": ({"steps": CALLED}, {}, 1, ["tool_calls"], "Tool calls changed (removed search)"),
    "tool once more": (
        {"steps": CALLED},
        {"steps": [CALLED[0], *searches(2)]},
        1,
        [],
        "no significant differences",
    ),
    "tool fails": (
        {"steps": CALLED},
        {"steps": [CALLED[0], *searches(1, status="error")]},
        1,
        ["tool_calls"],
        "Tool calls changed (other success search)",
    ),
    "tool slower": (
        {"steps": CALLED},
        {"steps": [CALLED[0], *searches(1, duration_ms=900)]},
        0,
        [],
        "no significant differences",
    ),
    "error appears": ({}, FAILED, 1, ["error"], "Error appeared"),
    "error disappears": (FAILED, {}, 1, ["error"], "Error disappeared"),
    "error changes": (FAILED, {**FAILED, "error": "Later"}, 1, ["error"], "Error changed"),
    "status only": ({}, {"status": "cancelled"}, 1, [], "no significant differences"),
    "output": ({}, {"output": {"response": "Ho"}}, 1, ["output"], "Output changed"),
    "output stripped": ({}, {"output": None}, 1, ["output"], "Output changed"),
    "time at a fifth": ({}, {"duration_ms": 1600}, 1, [], "no significant differences"),
    "time over a fifth": ({}, {"duration_ms": 1500}, 1, ["timing"], "Duration decreased by 25%"),
    "still running": (
        {},
        {"duration_ms": None, "status": "running", "ended_at": None},
        2,
        [],
        "no significant differences",
    ),
    "tokens": ({}, {"prompt_tokens": 1, "completion_tokens": 1499}, 1, [], "no significant differences"),
    "another try": (
        {},
        {"steps": [step(1, "llm_call", "gpt-4", status="error", code="overloaded"), step(2, "llm_call", "gpt-4")]},
        1,
        [],
        "no significant differences",
    ),
    "other order": (
        {"steps": [step(1, "llm_call", "gpt-4"), *searches(1), step(3, "llm_call", "gpt-4")]},
        {"steps": [step(1, "llm_call", "gpt-4"), step(2, "llm_call", "gpt-4"), *searches(1, 3)]},
        1,
        [],
        "no significant differences",
    ),
    "other place": ({}, {"workspace_id": "w", "agent_id": "a"}, 0, [], "no significant differences"),
    "everything": (
        {},
        {
            "model": "o3",
            "provider": "azure",
            "cost": 1,
            "workspace_hash": "",
            "duration_ms": 1,
            "skill_versions": {"summarize": "2.0.0"},
            "output": None,
            "prompt_tokens": 0,
            "steps": CALLED,
            **FAILED,
        },
        9,
        ["model", "provider", "cost", "workspace", "skills", "tool_calls", "error", "output", "timing"],
        (
            "Model changed (gpt-4 → o3), provider changed (openai → azure), cost decreased by 100%, workspace changed,"
            " skills changed (summarize 1.0.0 → 2.0.0), tool calls changed (added search), error appeared,"
            " output changed, duration decreased by 99.95%"
        ),
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_differences_are_counted_and_weighed(name: str) -> None:
    old, new, differences, significant, told = CHANGES[name]
    same = {} if "steps" in {**old, **new} else {"steps": [step(1, "llm_call", "gpt-4")]}
    found = diff_traces(detail("a", **{**same, **old}), detail("b", **{**same, **new}))
    assert found["summary"] == {"totalDifferences": differences, "significantChanges": significant}
    assert summary_sentence(found) == f"Compared traces a vs b: {told}."


def test_long_lists_are_cut_in_the_sentence() -> None:
    old, new = ({f"s{n}": version for n in range(8)} for version in ("1", "2"))
    told = summary_sentence(diff_traces(detail(skill_versions=old), detail(skill_versions=new)))
    assert told.endswith("(s0 1 → 2, s1 1 → 2, s2 1 → 2, s3 1 → 2, s4 1 → 2 and 3 more).")


def test_every_section_tells_its_values() -> None:
    old = detail(
        "a",
        prompt_tokens=10,
        cost=1,
        output={"response": "a😀"},
        steps=[*searches(2, 1), step(3, "tool_call", "gone", duration_ms=7, status="denied")],
        skill_versions={"kept": "1", "gone": "1", "moved": "1"},
    )
    new = detail(
        "b",
        tenant_id=GLOBEX,
        cost=300_000_000,
        completion_tokens=0,
        duration_ms=2001,
        workspace_hash="",
        output=None,
        steps=[
            step(1, "tool_call", "search", input={"n": 0}, output=["other"], duration_ms=9),
            step(2, "error", "task"),
        ],
        skill_versions={"kept": "1", "come": "1", "moved": "2"},
    )
    found = diff_traces(old, new)
    assert found["context"] == {
        "sameTenant": False,
        "sameWorkspace": True,
        "sameAgent": True,
        "baseStorageMode": "full",
        "compareStorageMode": "full",
    }
    assert found["timing"] == {"baseDurationMs": 2000, "compareDurationMs": 2001, "deltaMs": 1, "percentChange": 0.05}
    assert found["workspace"] == {"baseHash": "sha256:0", "compareHash": None, "changed": True}
    assert found["skills"] == {
        "added": {"come": "1"},
        "removed": {"gone": "1"},
        "changed": {"moved": {"base": "1", "compare": "2"}},
        "unchanged": {"kept": "1"},
    }
    assert found["usage"] == {
        "baseInputTokens": 10,
        "compareInputTokens": 1200,
        "baseOutputTokens": 300,
        "compareOutputTokens": 0,
        "inputTokenDelta": 1190,
        "outputTokenDelta": -300,
        "totalTokenDelta": 890,
    }
    assert found["cost"] == {
        "baseCost": 1e-9,
        "compareCost": 0.3,
        "delta": 0.299999999,
        "percentChange": 29999999900,
    }
    assert found["toolCalls"] == {
        "removed": [
            {"id": 2, "name": "search", "success": True, "durationMs": 5},
            {"id": 3, "name": "gone", "success": False, "durationMs": 7},
        ],
        "added": [],
        "changed": [
            {
                "name": "search",
                "baseId": 1,
                "compareId": 1,
                "differences": {
                    "argumentsChanged": False,
                    "resultChanged": True,
                    "successChanged": False,
                    "durationDelta": 4,
                },
            }
        ],
        "unchanged": 0,
        "baseCount": 3,
        "compareCount": 1,
        "removedNames": ["gone"],
        "addedNames": [],
    }
    assert {name: value for name, value in found["steps"].items() if name != "firstDivergence"} == {
        "baseStepCount": 3,
        "compareStepCount": 2,
        "llmCallCountDelta": 0,
        "toolCallCountDelta": -2,
        "errorCountDelta": 1,
        "structuralDifferences": 2,
        "identical": False,
    }
    assert found["output"] == {
        "baseHasOutput": True,
        "compareHasOutput": False,
        "messagesEqual": False,
        "baseMessageLength": 3,
        "compareMessageLength": 0,
        "messageLengthDelta": -3,
    }
    assert found["errors"]["baseHasError"] is found["errors"]["compareHasError"] is False


def test_what_retention_has_stripped_from_one_run_is_no_difference() -> None:
    told = [step(1, "llm_call", "gpt-4", output={"text": ""}), *searches(1)]
    silent = [step(1, "llm_call", "gpt-4"), step(2, "tool_call", "search")]
    whole = detail("a", steps=told, error="Too late", error_code="timeout")
    summary = detail("b", storage_mode="summary", steps=silent, error="Too late", error_code="timeout")
    minimal = detail("c", storage_mode="minimal", steps=silent, output=None, error_code="timeout")
    for base, compare in ((whole, summary), (summary, minimal), (minimal, whole), (minimal, minimal)):
        found = diff_traces(base, compare, include_text=True)
        assert found["summary"] == {"totalDifferences": 0, "significantChanges": []}
        assert (found["steps"]["identical"], found["toolCalls"]["changed"]) == (True, [])
    assert diff_traces(whole, summary)["output"]["messagesEqual"] is True
    unknown = diff_traces(whole, minimal, include_text=True)["output"]
    assert unknown == {
        "baseHasOutput": True,
        "compareHasOutput": False,
        "messagesEqual": None,
        "baseMessageLength": 2,
        "compareMessageLength": 0,
        "messageLengthDelta": None,
        "textDiff": None,
    }


def test_what_is_left_of_stripped_runs_is_compared() -> None:
    whole = detail("a", steps=searches(1, 1))
    summary = detail("b", storage_mode="summary", steps=[step(1, "tool_call", "search", status="error")])
    found = diff_traces(whole, dataclasses.replace(summary, output={"response": "Ho"}))
    assert found["summary"]["significantChanges"] == ["tool_calls", "output"]
    assert found["steps"]["firstDivergence"]["reason"] == "status"
    failed = detail("c", storage_mode="minimal", steps=[], output=None, status="error", error_code="timeout")
    assert diff_traces(whole, failed)["summary"]["significantChanges"] == ["tool_calls", "error"]


# --- Where runs part --------------------------------------------------------------------------------------------------

CALL = step(1, "tool_call", "search", input={"q": 1}, output=["x"])
PARTINGS: dict[str, tuple[StepView, dict[str, Any], str]] = {
    "type": (CALL, {"type": "error"}, "type"),
    "name": (CALL, {"name": "find"}, "name"),
    "status": (CALL, {"status": "denied"}, "status"),
    "code": (CALL, {"code": "limit"}, "status"),
    "arguments": (CALL, {"input": {"q": 2}}, "arguments"),
    "true is not one": (CALL, {"input": {"q": True}}, "arguments"),
    "result": (CALL, {"output": None}, "result"),
    "model": (step(1, "llm_call", "gpt-4"), {"name": "o3"}, "model"),
    "the first of two": (CALL, {"input": None, "output": None}, "arguments"),
}


@pytest.mark.parametrize("name", PARTINGS)
def test_where_two_runs_part(name: str) -> None:
    old, change, reason = PARTINGS[name]
    new, opening = dataclasses.replace(old, **change), step(0, "llm_call", "gpt-4")
    found = diff_traces(detail(steps=[opening, old]), detail(steps=[opening, new]))["steps"]
    assert found["identical"] is False
    assert (found["firstDivergence"]["index"], found["firstDivergence"]["reason"]) == (1, reason)
    for side, each in (("base", old), ("compare", new)):
        facts = {"type": each.type, "name": each.name, "status": each.status, "code": each.code or None}
        assert found["firstDivergence"][side] == facts


def test_a_run_that_stops_earlier_parts_there() -> None:
    found = diff_traces(detail(steps=[CALL, *searches(1)]), detail(steps=[CALL]))["steps"]["firstDivergence"]
    assert (found["index"], found["compare"], found["reason"]) == (1, None, "type")
    assert found["base"]["name"] == "search"


ALIKE: dict[str, dict[str, Any]] = {
    "when": {"started_at": START + timedelta(days=1), "duration_ms": 900},
    "place and provider": {"seq": 9, "attempt": 2, "provider": "azure"},
    "price": {"cost": 7, "prompt_tokens": 8, "completion_tokens": 9},
    "order of keys": {"input": {"b": 2, "a": 1}},
}


@pytest.mark.parametrize("name", ALIKE)
def test_a_digest_says_what_a_step_did_and_nothing_else(name: str) -> None:
    old = step(1, "tool_call", "search", input={"a": 1, "b": 2})
    (one,), (other,) = (step_digests(detail(steps=[each])) for each in (old, dataclasses.replace(old, **ALIKE[name])))
    assert one == other
    assert len(one) == 64


@pytest.mark.parametrize("value", [2**70, "\ud800", {"\ud800": [2**70]}, 1e300], ids=ascii)
def test_values_that_canonical_json_refuses_are_compared_too(value: Any) -> None:
    old, new = (detail(steps=[step(1, "tool_call", "t", input={"v": each})]) for each in (value, [value]))
    assert step_digests(old) == step_digests(old) != step_digests(new)
    assert diff_traces(old, new)["steps"]["firstDivergence"]["reason"] == "arguments"


# --- Invariants -------------------------------------------------------------------------------------------------------

_json = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), st.lists, max_leaves=3)
_steps = st.builds(
    step,
    seq=st.integers(1, 9),
    kind=st.sampled_from(["llm_call", "tool_call", "error"]),
    name=st.sampled_from(["search", "find"]),
    status=st.sampled_from(["ok", "error", "denied"]),
    code=st.sampled_from(["", "stop"]),
    duration_ms=st.integers(0, 9),
    input=_json,
    output=_json,
)
_details = st.builds(
    detail,
    trace_id=st.sampled_from(["a", "b"]),
    steps=st.lists(_steps, max_size=5),
    status=st.sampled_from(["running", "success", "error"]),
    error=st.sampled_from(["", "Broken"]),
    error_code=st.sampled_from(["", "timeout"]),
    model=st.sampled_from(["gpt-4", "o3", ""]),
    provider=st.sampled_from(["openai", ""]),
    duration_ms=st.none() | st.integers(0, 5000),
    cost=st.integers(0, 2**53),
    prompt_tokens=st.integers(0, 99),
    workspace_hash=st.sampled_from(["", "sha256:0"]),
    skill_versions=st.dictionaries(st.sampled_from("xyz"), st.sampled_from("12")),
    input=st.none(),
    output=st.none() | st.text(max_size=9).map(lambda text: {"response": text}) | _json,
)
_SWAPPED = {"base": "compare", "added": "removed", "addedNames": "removedNames"}
_OTHER = {**_SWAPPED, **{other: one for one, other in _SWAPPED.items()}}
_ONE_SIDED = {"percentChange", "significantChanges"}
"""What is measured by the base alone."""


def mirrored(value: Any, name: str = "") -> Any:
    """A comparison as seen from the other side."""
    if isinstance(value, dict):
        return {_other_side(key): mirrored(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [mirrored(each) for each in value]
    return -value if name.lower().endswith(("delta", "deltams")) and value is not None else value


def _other_side(key: str) -> str:
    if key in _OTHER:
        return _OTHER[key]
    one = next((each for each in ("base", "compare") if key.startswith(each)), "")
    return _OTHER[one] + key.removeprefix(one) if one else key


def unordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: unordered(each) for key, each in sorted(value.items()) if key not in _ONE_SIDED}
    return sorted(map(unordered, value), key=repr) if isinstance(value, list) else value


@given(_details)
def test_a_run_equals_itself(run: TraceDetail) -> None:
    found = diff_traces(run, run, include_text=True)
    assert found["summary"] == {"totalDifferences": 0, "significantChanges": []}
    assert found["steps"]["firstDivergence"] is None
    assert found["steps"]["identical"] is True
    assert found["output"]["textDiff"] == {"lines": [], "truncated": False}
    assert summary_sentence(found).endswith(": no significant differences.")


@given(_details, _details)
def test_the_other_way_round_is_the_mirror(base: TraceDetail, compare: TraceDetail) -> None:
    there, back = diff_traces(base, compare), diff_traces(compare, base)
    assert unordered(mirrored(there)) == unordered(back)


@given(_details, _details)
def test_whatever_differs_is_counted(base: TraceDetail, compare: TraceDetail) -> None:
    found = diff_traces(base, compare)
    summary, steps = found["summary"], found["steps"]
    assert steps["identical"] == (step_digests(base) == step_digests(compare)) == (steps["firstDivergence"] is None)
    if summary["significantChanges"] or not steps["identical"]:
        assert summary["totalDifferences"] > 0
    assert summary_sentence(found).startswith("Compared traces ")


# --- The door ---------------------------------------------------------------------------------------------------------


def stored(seen: TraceDetail, *, running: bool = False, tenant_id: str = ACME) -> str:
    """Writes the run as the engine does, under a new id; gives the id."""
    summary, trace_id = seen.summary, new_id()
    opening = Opening(
        id=trace_id,
        tenant_id=tenant_id,
        workspace_id=summary.workspace_id,
        environment=summary.environment,
        agent_id=summary.agent_id,
        user_id=summary.user_id,
        kind=summary.kind,
        provider=summary.provider,
        model=summary.model,
        workspace_hash=seen.workspace_hash,
        risk=Risk(score=10, level="low", factors={}),
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
        closing = Closing(
            id=trace_id,
            tenant_id=tenant_id,
            status="success",
            ended_at=START + timedelta(seconds=2),
            duration_ms=2000,
            provider=summary.provider,
            model=summary.model,
            usage=Usage(input=summary.prompt_tokens, output=summary.completion_tokens),
            cost=NanoUSD(summary.cost),
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
def test_all_faults_are_told_at_once(name: str, server: Server) -> None:
    body, fields = FAULTY[name]
    response = server.post("/traces/diff", body)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request"), response.text
    assert set(response.json()["details"]["fieldErrors"]) == fields
