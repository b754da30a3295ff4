"""Risk scores over HTTP: POST /risk/score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.governance.domain.risk import RiskInput, RiskScore, score_risk
from apps.identity.api import read_body
from apps.identity.domain.permissions import GOVERNANCE_READ
from clasper.core.http import operation
from clasper.core.schemas import AnyTenantId, Errors, Resource, about


class RiskBody(RiskInput, frozen=True, kw_only=True):
    """What is known of a run that may be made."""

    tenant_id: AnyTenantId = None
    model: Annotated[str | None, about("Accepted and not counted.")] = None

    @classmethod
    def cross_field_errors(cls, values: Mapping[str, Any], given: Mapping[str, Any]) -> Errors:
        if "tool_count" in given or "tool_names" in given:
            return {}
        return {"tool_count": ["This field is required unless tool_names is given."]}


class RiskAnswer(Resource, frozen=True, kw_only=True):
    """The score of the run."""

    status: Literal["ok"] = "ok"
    risk: RiskScore


class RiskView(APIView):
    """How risky a run would be."""

    required_scopes: ClassVar[dict[str, str]] = {"POST": GOVERNANCE_READ}

    @operation("risk_score", body=RiskBody, response=RiskAnswer)
    def post(self, request: Request) -> Response:
        """The risk score that a run would get, computed as it is for every run. Stores nothing."""
        _, body = read_body(RiskBody, request)
        return Response(RiskAnswer(risk=score_risk(body)))
