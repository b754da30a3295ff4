"""Risk of a run: how much could go wrong, with the reasons. Weights and tables: rulings §7.1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskInput:
    """What is known of an execution."""

    tool_count: int
    tool_names: tuple[str, ...] = ()
    skill_state: str | None = None
    temperature: float = 0.7
    data_sensitivity: str = "none"
    skill_tested: bool = False
    skill_pinned: bool | None = None
    custom_flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskScore:
    """The score (0–100), its level, and why."""

    score: int
    level: str
    factors: Mapping[str, int]
    risk_factors: tuple[str, ...] = ()
    recommendations: tuple[str, ...] = ()
    high_risk_tools: tuple[str, ...] = ()


def score_risk(risk: RiskInput) -> RiskScore:
    """Temporary."""
    breadth = min(100, 11 * risk.tool_count)
    sensitivity = {"none": 0, "low": 20, "medium": 40, "high": 70, "pii": 100}[risk.data_sensitivity]
    volatility = int(risk.temperature / 2 * 100 + 0.5)
    score = int(0.25 * breadth + 0.2 * volatility + 0.35 * sensitivity + 0.5)
    level = "low" if score < 25 else "medium" if score < 50 else "high" if score < 75 else "critical"
    return RiskScore(score=score, level=level, factors={"toolBreadth": breadth})
