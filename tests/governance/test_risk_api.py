"""POST /risk/score: the documented sample, what it takes, and every fault at once."""

from __future__ import annotations

from typing import Any

import pytest

from apps.governance.domain.risk import MAX_FLAGS, MAX_TOOLS, RiskInput, score_risk
from tests.contracts.shapes import example
from tests.world import ACME, GLOBEX, Server, tenant_key


def score(server: Server, **body: Any) -> dict[str, Any]:
    answer = server.post("/risk/score", body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "ok"
    risk: dict[str, Any] = answer.json()["risk"]
    return risk


def test_the_documented_sample_is_exact(server: Server) -> None:
    risk = score(server, **example("risk_score", "request"))
    assert risk == {**example("risk_score")["risk"], "highRiskTools": ["execute_code"]}


BODIES: dict[str, tuple[dict[str, Any], RiskInput]] = {
    "only a count": ({"tool_count": 9}, RiskInput(tool_count=9)),
    "only names": ({"tool_names": ["a", "run_command"]}, RiskInput(tool_names=("a", "run_command"))),
    "no tools": ({"tool_names": []}, RiskInput()),
    "more names than counted": ({"tool_count": 1, "tool_names": ["a", "b"]}, RiskInput(tool_names=("a", "b"))),
    "a model is not counted": ({"tool_count": 0, "model": "o1-pro"}, RiskInput()),
    "nulls are as left out": (
        {"tool_count": 0, "skill_state": None, "temperature": None, "skill_pinned": None},
        RiskInput(),
    ),
    "tested and pinned": (
        {"tool_count": 0, "skill_state": "draft", "skill_tested": True, "skill_pinned": True},
        RiskInput(skill_state="draft", skill_tested=True, skill_pinned=True),
    ),
    "not pinned": (
        {"tool_count": 0, "skill_state": "active", "skill_pinned": False},
        RiskInput(skill_state="active", skill_pinned=False),
    ),
    "flags": ({"tool_count": 0, "custom_flags": ["beta", "new"]}, RiskInput(custom_flags=("beta", "new"))),
    "everything": (
        {"tool_count": 10, "skill_state": "deprecated", "temperature": 2, "data_sensitivity": "pii"},
        RiskInput(tool_count=10, skill_state="deprecated", temperature=2.0, data_sensitivity="pii"),
    ),
}


@pytest.mark.parametrize("what", BODIES)
def test_the_endpoint_scores_as_runs_are_scored(what: str, server: Server) -> None:
    body, wanted = BODIES[what]
    risk, expected = score(server, **body), score_risk(wanted)
    assert (risk["score"], risk["level"]) == (expected.score, expected.level)
    assert risk["factors"] == dict(expected.factors)
    assert risk["riskFactors"] == list(expected.risk_factors)
    assert risk["recommendations"] == list(expected.recommendations)


FAULTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "neither count nor names": ({}, {"tool_count"}),
    "all at once": (
        {
            "tool_count": -1,
            "tool_names": "search",
            "skill_state": "shiny",
            "temperature": 2.1,
            "data_sensitivity": "extreme",
            "skill_tested": "perhaps",
            "skill_pinned": [],
            "custom_flags": ["x"] * (MAX_FLAGS + 1),
        },
        {
            *("tool_count", "tool_names", "skill_state", "temperature", "data_sensitivity"),
            *("skill_tested", "skill_pinned", "custom_flags"),
        },
    ),
    "a temperature below zero": ({"tool_count": 1, "temperature": -0.1}, {"temperature"}),
    "a temperature that is text": ({"tool_count": 1, "temperature": "hot"}, {"temperature"}),
    "a temperature that is a truth value": ({"tool_count": 1, "temperature": True}, {"temperature"}),
    "not a number": ({"temperature": "NaN"}, {"temperature", "tool_count"}),
    "a name that is an object": ({"tool_names": [{}]}, {"tool_names"}),
    "an empty flag": ({"tool_count": 1, "custom_flags": [""]}, {"custom_flags"}),
    "too many tools": ({"tool_count": MAX_TOOLS + 1}, {"tool_count"}),
    "an unknown field": ({"tool_count": 1, "tools": 2}, {"tools"}),
    "a null count": ({"tool_count": None}, {"tool_count"}),
}


@pytest.mark.parametrize("what", FAULTS)
def test_every_error_is_named(what: str, server: Server) -> None:
    body, fields = FAULTS[what]
    answer = server.post("/risk/score", body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request"), answer.text
    assert set(answer.json()["details"]["fieldErrors"]) == fields


def test_whose_key_it_is(server: Server) -> None:
    def status(body: dict[str, Any], key: str) -> int:
        return server.post("/risk/score", body, key=key).status_code

    own = tenant_key(ACME, "governance:read")
    assert status({"tool_count": 1}, own) == 200
    assert status({"tool_count": 1, "tenant_id": ACME}, own) == 200
    assert status({"tool_count": 1, "tenant_id": GLOBEX}, own) == 403
    assert status({"tool_count": 1}, tenant_key(ACME, "traces:read")) == 403
    assert status({"tool_count": 1}, "") == 403
