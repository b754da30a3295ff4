"""The risk score: the documented sample, every trigger, and what must hold for any input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from apps.governance.domain.risk import MATURITY, SENSITIVITY, WEIGHTS, RiskInput, is_high_risk, score_risk

WORST = RiskInput(tool_count=10, skill_state="deprecated", temperature=2.0, data_sensitivity="pii")

inputs = st.builds(
    RiskInput,
    tool_count=st.integers(0, 40),
    tool_names=st.lists(st.sampled_from(["search", "Execute_Code", "ops.run_command"]), max_size=8).map(tuple),
    skill_state=st.sampled_from([None, *MATURITY]),
    temperature=st.none() | st.floats(0, 2),
    data_sensitivity=st.sampled_from(list(SENSITIVITY)),
    skill_tested=st.booleans(),
    skill_pinned=st.sampled_from([None, True, False]),
    custom_flags=st.lists(st.sampled_from(["beta", "external"]), max_size=7).map(tuple),
)


def test_the_documented_sample() -> None:
    risk = score_risk(
        RiskInput(
            tool_count=5,
            tool_names=("search", "execute_code"),
            skill_state="draft",
            temperature=1.0,
            data_sensitivity="pii",
        )
    )
    assert (risk.score, risk.level) == (72, "high")
    assert dict(risk.factors) == {
        "toolBreadth": 60,
        "skillMaturity": 60,
        "modelVolatility": 50,
        "dataSensitivity": 100,
    }
    assert risk.risk_factors == (
        "Skill is in draft state",
        "High temperature (1.0) increases variability",
        "PII data is being processed",
    )
    assert risk.recommendations == (
        "Promote skill to tested or active state",
        "Consider lowering temperature for more consistent output",
        "Enable PII redaction",
    )
    assert risk.high_risk_tools == ("execute_code",)


@pytest.mark.parametrize(
    ("risk", "score", "level"),
    [
        (RiskInput(), 7, "low"),
        (RiskInput(temperature=0), 0, "low"),
        (RiskInput(skill_state="unknown"), 17, "low"),
        (RiskInput(tool_count=9, temperature=0), 25, "medium"),  # 24.75 rounds up and over the edge
        (RiskInput(tool_count=2, temperature=0), 6, "low"),  # 5.5 rounds half up
        (RiskInput(tool_count=6, temperature=0), 17, "low"),  # 16.5 would go to 16 under banker's rounding
        (RiskInput(data_sensitivity="pii", tool_count=10, temperature=0.2), 62, "high"),
        (WORST, 96, "critical"),
        (replace(WORST, custom_flags=("a",) * 9), 100, "critical"),
    ],
)
def test_scores_and_levels(risk: RiskInput, score: int, level: str) -> None:
    result = score_risk(risk)
    assert (result.score, result.level) == (score, level)


@pytest.mark.parametrize(("state", "maturity"), MATURITY.items())
def test_maturity_is_relieved_by_tests_and_pins(state: str, maturity: int) -> None:
    assert score_risk(RiskInput(skill_state=state)).factors["skillMaturity"] == maturity
    eased = RiskInput(skill_state=state, skill_tested=True, skill_pinned=True)
    assert score_risk(eased).factors["skillMaturity"] == max(0, maturity - 30)


@pytest.mark.parametrize(
    ("risk", "reason", "advice"),
    [
        (
            RiskInput(tool_count=6),
            "Run may use many or powerful tools (6)",
            "Review whether the run needs all of its tools",
        ),
        (RiskInput(skill_state="draft"), "Skill is in draft state", "Promote skill to tested or active state"),
        (
            RiskInput(skill_state="deprecated"),
            "Skill is in deprecated state",
            "Replace the deprecated skill by an active one",
        ),
        (RiskInput(skill_state="active", skill_pinned=False), None, "Pin the skill to a version"),
        (
            RiskInput(temperature=1.25),
            "High temperature (1.25) increases variability",
            "Consider lowering temperature for more consistent output",
        ),
        (
            RiskInput(data_sensitivity="high"),
            "Highly sensitive data is being processed",
            "Enable redaction of sensitive data",
        ),
        (RiskInput(custom_flags=("beta", "new")), "Custom risk flags: beta, new", None),
        (RiskInput(tool_count=5, temperature=0.98, skill_state="active"), None, None),
    ],
)
def test_reasons_and_advice(risk: RiskInput, reason: str | None, advice: str | None) -> None:
    result = score_risk(risk)
    assert result.risk_factors == ((reason,) if reason else ())
    assert result.recommendations == ((advice,) if advice else ())


def test_names_count_when_nobody_counted() -> None:
    result = score_risk(RiskInput(tool_names=("a", "Admin_Action_2", "c")))
    assert result.factors["toolBreadth"] == 3 * 11 + 5
    assert result.high_risk_tools == ("Admin_Action_2",)
    assert not is_high_risk("search")


def test_flags_show_only_when_given() -> None:
    assert "customFactors" not in score_risk(RiskInput()).factors
    assert score_risk(RiskInput(custom_flags=("a",))).factors["customFactors"] == 20
    assert score_risk(RiskInput(custom_flags=("a",) * 9)).factors["customFactors"] == 100


@given(inputs)
def test_the_score_is_the_weighted_sum(risk: RiskInput) -> None:
    result = score_risk(risk)
    assert sum(WEIGHTS.values()) == 100
    exact = sum(weight * result.factors[name] for name, weight in WEIGHTS.items()) / 100
    assert abs(result.score - min(100, exact + min(10, 2 * len(risk.custom_flags)))) <= 0.5
    assert all(0 <= value <= 100 for value in result.factors.values())
    assert 0 <= result.score <= 100


@given(inputs, st.integers(1, 5))
def test_more_tools_never_lower_the_score(risk: RiskInput, more: int) -> None:
    assert score_risk(replace(risk, tool_count=risk.tool_count + more)).score >= score_risk(risk).score
