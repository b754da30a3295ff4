"""Forecasts over HTTP: POST /cost/forecast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.governance.domain.forecast import MAX_TOKENS
from apps.governance.services.forecast import Forecast, forecast_cost
from apps.identity.api import read_body
from apps.identity.domain.permissions import GOVERNANCE_READ
from clasper.core.clock import utc_now
from clasper.core.errors import InvalidRequest
from clasper.core.http import operation
from clasper.core.model_ref import OFFLINE, PROVIDERS, parse_model_ref, provider_id
from clasper.core.schemas import Errors, Input, OneTenantId, Resource, about

DEFAULT_OUTPUT_TOKENS = 1000
_KNOWN_PROVIDERS = (*PROVIDERS, OFFLINE)

Tokens = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]


class ForecastInput(Input, frozen=True, kw_only=True):
    """A call that may be made."""

    tenant_id: OneTenantId
    model: Annotated[str, about("`provider/model`, or `model` of the default provider.", example="openai/gpt-4o")]
    estimated_input_tokens: Annotated[Tokens, about(example=5000)]
    estimated_output_tokens: Tokens = DEFAULT_OUTPUT_TOKENS
    provider: Annotated[str | None, about("Whose model a name without provider means. Default: LLM_PROVIDER.")] = None

    aliases: ClassVar[Mapping[str, str]] = {
        "prompt_size": "estimated_input_tokens",
        "max_output_tokens": "estimated_output_tokens",
    }

    @classmethod
    def cross_field_errors(cls, values: Mapping[str, Any], given: Mapping[str, Any]) -> Errors:
        errors: Errors = {}
        if "model" in values:
            try:
                parse_model_ref(values["model"], "")
            except InvalidRequest as error:
                errors.update(error.details["fieldErrors"])
        provider = values.get("provider")
        if provider is not None and provider_id(provider) not in _KNOWN_PROVIDERS:
            errors["provider"] = [f"Must be one of {', '.join(_KNOWN_PROVIDERS)}."]
        return errors


class ForecastAnswer(Resource, frozen=True, kw_only=True):
    """The forecast."""

    status: Literal["ok"] = "ok"
    forecast: Forecast


class ForecastView(APIView):
    """What a call would cost."""

    required_scopes: ClassVar[dict[str, str]] = {"POST": GOVERNANCE_READ}

    @operation("cost_forecast", body=ForecastInput, response=ForecastAnswer)
    def post(self, request: Request) -> Response:
        """What a call of a model would cost and whether the tenant's budget leaves enough. Reserves nothing."""
        _, body = read_body(ForecastInput, request)
        forecast = forecast_cost(
            tenant_id=body.tenant_id,
            model=body.model,
            input_tokens=body.estimated_input_tokens,
            output_tokens=body.estimated_output_tokens,
            provider=body.provider or "",
            now=utc_now(),
        )
        return Response(ForecastAnswer(forecast=forecast))
