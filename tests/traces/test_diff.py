"""Comparing two runs: the sections, what matters of them, where the runs part, and the sentence that tells it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from apps.traces.domain.diff import diff_traces, step_digests, summary_sentence
from apps.traces.domain.views import StepView
from tests.contracts.shapes import example
from tests.traces.compared import SAMPLE, START, detail, searches, step, within
from tests.world import GLOBEX


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
    "workspace": ({}, {"snapshot_hash": "sha256:1"}, 1, ["workspace"], "Workspace changed"),
    "workspace unknown": ({}, {"snapshot_hash": ""}, 1, ["workspace"], "Workspace changed"),
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
            "snapshot_hash": "",
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


def test_every_section_describes_its_values() -> None:
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
        snapshot_hash="",
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
    found = diff_traces(whole, replace(summary, output={"response": "Ho"}))
    assert found["summary"]["significantChanges"] == ["tool_calls", "output"]
    assert found["steps"]["firstDivergence"]["reason"] == "status"
    failed = detail("c", storage_mode="minimal", steps=[], output=None, status="error", error_code="timeout")
    assert diff_traces(whole, failed)["summary"]["significantChanges"] == ["tool_calls", "error"]


# --- Where runs part --------------------------------------------------------------------------------------------------

CALL = step(1, "tool_call", "search", input={"q": 1}, output=["x"])
PARTINGS: dict[str, tuple[StepView, dict[str, Any], str]] = {
    "type": (CALL, {"type": "error"}, "type"),
    "name": (CALL, {"tool_name": "find"}, "name"),
    "status": (CALL, {"status": "denied"}, "status"),
    "code": (CALL, {"code": "limit"}, "status"),
    "arguments": (CALL, {"arguments": {"q": 2}}, "arguments"),
    "true is not one": (CALL, {"arguments": {"q": True}}, "arguments"),
    "result": (CALL, {"output": None}, "result"),
    "model": (step(1, "llm_call", "gpt-4"), {"model": "o3"}, "model"),
    "the first of two": (CALL, {"arguments": None, "output": None}, "arguments"),
}


@pytest.mark.parametrize("name", PARTINGS)
def test_where_two_runs_part(name: str) -> None:
    old, change, reason = PARTINGS[name]
    new, opening = replace(old, **change), step(0, "llm_call", "gpt-4")
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
    "order of keys": {"arguments": {"b": 2, "a": 1}},
}


@pytest.mark.parametrize("name", ALIKE)
def test_a_digest_says_what_a_step_did_and_nothing_else(name: str) -> None:
    old = step(1, "tool_call", "search", input={"a": 1, "b": 2})
    (one,), (other,) = (step_digests(detail(steps=[each])) for each in (old, replace(old, **ALIKE[name])))
    assert one == other
    assert len(one) == 64


@pytest.mark.parametrize("value", [2**70, "\ud800", {"\ud800": [2**70]}, 1e300], ids=ascii)
def test_values_that_canonical_json_refuses_are_compared_too(value: Any) -> None:
    old, new = (detail(steps=[step(1, "tool_call", "t", input={"v": each})]) for each in (value, [value]))
    assert step_digests(old) == step_digests(old) != step_digests(new)
    assert diff_traces(old, new)["steps"]["firstDivergence"]["reason"] == "arguments"
