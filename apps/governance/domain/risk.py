"""The risk score of a run: four weighted factors and a bonus for flags, with the reasons and what to do about them.

Factors run from 0 to 100. All sums are integers (hundredths of a point), so the rounding, half up, is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from msgspec import Meta

from clasper.core.schemas import Input, Resource, about

WEIGHTS: Mapping[str, int] = MappingProxyType(
    {"toolBreadth": 25, "skillMaturity": 20, "modelVolatility": 20, "dataSensitivity": 35}
)
"""Percent of the score that a factor contributes at most."""

Level = Literal["low", "medium", "high", "critical"]
Maturity = Literal["active", "approved", "tested", "unknown", "draft", "deprecated"]
MATURITY: Mapping[Maturity, int] = MappingProxyType(
    {"active": 0, "approved": 10, "tested": 30, "unknown": 50, "draft": 60, "deprecated": 80}
)
Sensitivity = Literal["none", "low", "medium", "high", "pii"]
SENSITIVITY: Mapping[Sensitivity, int] = MappingProxyType({"none": 0, "low": 20, "medium": 40, "high": 70, "pii": 100})
HIGH_RISK_NAMES = (
    "execute_code",
    "run_command",
    "delete_file",
    "send_email",
    "make_purchase",
    "modify_database",
    "admin_action",
)
"""A tool whose name contains one of these acts on the world in ways that are hard to take back."""

DEFAULT_TEMPERATURE = 0.7
"""What providers use, or close to it, when a request names no temperature."""

MAX_TEMPERATURE = 2.0
MAX_TOOLS = 1000
"""Far more than make a run of the highest breadth."""

MAX_FLAGS = 50
_PER_TOOL, _PER_HIGH_RISK_TOOL = 11, 5
_TESTED_RELIEF, _PINNED_RELIEF = 20, 10
_PER_FLAG, _MOST_FROM_FLAGS = 2, 10
_HIGHEST: Level = "critical"
_LEVELS: tuple[tuple[int, Level], ...] = ((25, "low"), (50, "medium"), (75, "high"))
_MANY_TOOLS, _IMMATURE, _VOLATILE, _HOT = 60, 30, 50, 1.0


Names = tuple[Annotated[str, Meta(min_length=1, max_length=128)], ...]


class RiskInput(Input, frozen=True, kw_only=True):
    """What is known of a run."""

    tool_count: Annotated[int, about("Tools the run may use. Default: as many as named.", ge=0, le=MAX_TOOLS)] = 0
    tool_names: Annotated[
        Names,
        about(
            "Their names; needed unless tool_count is given.", example=["search", "execute_code"], max_length=MAX_TOOLS
        ),
    ] = ()
    skill_state: Annotated[
        Maturity | None,
        about("The worst state of its skills; `unknown` if one has no known state. Default: no skills."),
    ] = None
    temperature: Annotated[
        Annotated[float, Meta(ge=0, le=MAX_TEMPERATURE)] | None, about("Default: 0.7, as with most providers.")
    ] = None
    data_sensitivity: Sensitivity = "none"
    skill_tested: bool = False
    skill_pinned: Annotated[bool | None, about("False asks for a pin; left out, it asks for nothing.")] = None
    custom_flags: Annotated[Names, about("Risks of your own; every one adds a little.", max_length=MAX_FLAGS)] = ()


class RiskScore(Resource, frozen=True, kw_only=True, rename="camel"):
    """The score, how it came about, and what to do about it."""

    score: Annotated[int, about(example=72, ge=0, le=100)]
    level: Annotated[Level, about(example="high")]
    factors: Annotated[
        Mapping[str, int],
        about(
            "From 0 to 100. `skillMaturity` is high for skills that are not mature; `customFactors` is "
            "present with custom_flags.",
            example={"toolBreadth": 60, "skillMaturity": 60, "modelVolatility": 50, "dataSensitivity": 100},
        ),
    ]
    risk_factors: Annotated[tuple[str, ...], about(example=["Skill is in draft state"])]
    recommendations: Annotated[tuple[str, ...], about(example=["Promote skill to tested or active state"])]
    high_risk_tools: Annotated[
        tuple[str, ...], about("Named tools whose acts are hard to take back.", example=["execute_code"])
    ]


def score_risk(risk: RiskInput) -> RiskScore:
    """The score of a run."""
    high_risk_tools = tuple(name for name in risk.tool_names if is_high_risk(name))
    tools = max(risk.tool_count, len(risk.tool_names))
    temperature = DEFAULT_TEMPERATURE if risk.temperature is None else risk.temperature
    factors = {
        "toolBreadth": min(100, _PER_TOOL * tools + _PER_HIGH_RISK_TOOL * len(high_risk_tools)),
        "skillMaturity": _maturity(risk),
        "modelVolatility": _half_up(round(temperature * 10_000), 200),
        "dataSensitivity": SENSITIVITY[risk.data_sensitivity],
    }
    bonus = min(_MOST_FROM_FLAGS, _PER_FLAG * len(risk.custom_flags))
    score = min(100, _half_up(sum(weight * factors[name] for name, weight in WEIGHTS.items()) + 100 * bonus, 100))
    reasons, advice = _reasons(risk, factors, tools), _advice(risk, factors)
    if risk.custom_flags:
        factors["customFactors"] = bonus * 100 // _MOST_FROM_FLAGS
    level = next((name for limit, name in _LEVELS if score < limit), _HIGHEST)
    return RiskScore(
        score=score,
        level=level,
        factors=factors,
        risk_factors=reasons,
        recommendations=advice,
        high_risk_tools=high_risk_tools,
    )


def is_high_risk(tool_name: str) -> bool:
    """Whether the tool's name says that it acts on the world in ways that are hard to take back."""
    lower = tool_name.lower()
    return any(name in lower for name in HIGH_RISK_NAMES)


def _half_up(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def _maturity(risk: RiskInput) -> int:
    if risk.skill_state is None:
        return 0
    relief = _TESTED_RELIEF * risk.skill_tested + _PINNED_RELIEF * (risk.skill_pinned is True)
    return max(0, MATURITY[risk.skill_state] - relief)


def _reasons(risk: RiskInput, factors: Mapping[str, int], tools: int) -> tuple[str, ...]:
    sensitive = {"pii": "PII data is being processed", "high": "Highly sensitive data is being processed"}
    temperature = risk.temperature if risk.temperature is not None else DEFAULT_TEMPERATURE
    candidates = (
        (factors["toolBreadth"] > _MANY_TOOLS, f"Run may use many or powerful tools ({tools})"),
        (risk.skill_state in ("draft", "deprecated"), f"Skill is in {risk.skill_state} state"),
        (temperature >= _HOT, f"High temperature ({float(temperature)}) increases variability"),
        (risk.data_sensitivity in sensitive, sensitive.get(risk.data_sensitivity, "")),
        (bool(risk.custom_flags), f"Custom risk flags: {', '.join(risk.custom_flags)}"),
    )
    return tuple(text for applies, text in candidates if applies)


def _advice(risk: RiskInput, factors: Mapping[str, int]) -> tuple[str, ...]:
    immature = factors["skillMaturity"] > _IMMATURE
    redaction = {"pii": "Enable PII redaction", "high": "Enable redaction of sensitive data"}
    candidates = (
        (immature and risk.skill_state != "deprecated", "Promote skill to tested or active state"),
        (immature and risk.skill_state == "deprecated", "Replace the deprecated skill by an active one"),
        (risk.skill_state is not None and risk.skill_pinned is False, "Pin the skill to a version"),
        (factors["modelVolatility"] >= _VOLATILE, "Consider lowering temperature for more consistent output"),
        (factors["toolBreadth"] > _MANY_TOOLS, "Review whether the run needs all of its tools"),
        (risk.data_sensitivity in redaction, redaction.get(risk.data_sensitivity, "")),
    )
    return tuple(text for applies, text in candidates if applies)
