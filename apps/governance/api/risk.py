"""The door to risk: POST /risk/score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.governance.api.legacy import TenantInput, body_of, read_input
from apps.governance.domain.risk import (
    LEVELS,
    MATURITY,
    MAX_FLAGS,
    MAX_TEMPERATURE,
    MAX_TOOLS,
    SENSITIVITY,
    RiskInput,
    RiskScore,
    score_risk,
)
from apps.identity.domain.permissions import GOVERNANCE_READ
from clasper.core.inputs import NumberField, OneOfField

MAX_NAME = 128


class NameList(serializers.ListField):
    """Names, each of 1 to 128 characters."""

    child = serializers.CharField(max_length=MAX_NAME)


class RiskBody(TenantInput):
    """What is known of a run that may be made."""

    tool_count = serializers.IntegerField(
        required=False, min_value=0, max_value=MAX_TOOLS, help_text="Tools the run may use. Default: as many as named."
    )
    tool_names = NameList(
        required=False, max_length=MAX_TOOLS, help_text="Their names; needed unless tool_count is given."
    )
    skill_state = OneOfField(
        required=False, allow_null=True, choices=list(MATURITY), help_text="The worst state of its skills."
    )
    temperature = NumberField(
        required=False, allow_null=True, min_value=0, max_value=MAX_TEMPERATURE, help_text="Default: 0.7."
    )
    data_sensitivity = OneOfField(default="none", choices=list(SENSITIVITY))
    skill_tested = serializers.BooleanField(default=False)
    skill_pinned = serializers.BooleanField(
        required=False, allow_null=True, help_text="False asks for a pin; left out, it asks for nothing."
    )
    custom_flags = NameList(required=False, max_length=MAX_FLAGS, help_text="Reasons of your own; each adds a little.")
    model = serializers.CharField(required=False, allow_blank=True, help_text="Taken and not counted.")

    tenant_required: ClassVar[bool] = False

    def rule_faults(self, values: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, list[str]]:
        if "tool_count" in given or "tool_names" in given:
            return {}
        return {"tool_count": ["This field is required unless tool_names is given."]}


class RiskFactors(serializers.Serializer[Any]):
    """From 0 to 100 each."""

    toolBreadth = serializers.IntegerField()  # noqa: N815  the API's spelling
    skillMaturity = serializers.IntegerField(help_text="High for skills that are not mature.")  # noqa: N815
    modelVolatility = serializers.IntegerField()  # noqa: N815
    dataSensitivity = serializers.IntegerField()  # noqa: N815
    customFactors = serializers.IntegerField(required=False, help_text="Only with custom_flags.")  # noqa: N815


class RiskAmounts(serializers.Serializer[Any]):
    """The score, how it came about, and what to do about it."""

    score = serializers.IntegerField(min_value=0, max_value=100)
    level = serializers.ChoiceField(choices=LEVELS)
    factors = RiskFactors()
    riskFactors = serializers.ListField(child=serializers.CharField())  # noqa: N815
    recommendations = serializers.ListField(child=serializers.CharField())
    highRiskTools = serializers.ListField(  # noqa: N815
        child=serializers.CharField(), help_text="Named tools whose acts are hard to take back."
    )


class RiskAnswer(serializers.Serializer[Any]):
    status = serializers.CharField()
    risk = RiskAmounts()


class RiskView(APIView):
    """How risky a run would be."""

    required_scopes: ClassVar[dict[str, str]] = {"POST": GOVERNANCE_READ}

    @extend_schema(operation_id="risk_score", request=RiskBody, responses=RiskAnswer)
    def post(self, request: Request) -> Response:
        """The risk score that a run would get, by the rules that score every run. Stores nothing."""
        _, values = read_input(RiskBody, request, body_of(request))
        return Response({"status": "ok", "risk": risk_json(score_risk(risk_in(values)))})


def risk_in(values: Mapping[str, Any]) -> RiskInput:
    """The run that a body describes."""
    return RiskInput(
        tool_count=values.get("tool_count", 0),
        tool_names=tuple(values.get("tool_names", ())),
        skill_state=values.get("skill_state"),
        temperature=values.get("temperature"),
        data_sensitivity=values["data_sensitivity"],
        skill_tested=values["skill_tested"],
        skill_pinned=values.get("skill_pinned"),
        custom_flags=tuple(values.get("custom_flags", ())),
    )


def risk_json(risk: RiskScore) -> dict[str, Any]:
    """The score as the API shows it."""
    return {
        "score": risk.score,
        "level": risk.level,
        "factors": dict(risk.factors),
        "riskFactors": list(risk.risk_factors),
        "recommendations": list(risk.recommendations),
        "highRiskTools": list(risk.high_risk_tools),
    }
