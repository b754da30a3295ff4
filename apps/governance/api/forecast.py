"""The door to forecasts: POST /cost/forecast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.governance.api.legacy import TenantInput, body_of, read_tenant_input
from apps.governance.domain.forecast import MAX_TOKENS, RECOMMENDATIONS
from apps.governance.services.forecast import Forecast, forecast_cost
from apps.identity.domain.permissions import GOVERNANCE_READ
from clasper.core.clock import utc_now
from clasper.core.errors import InvalidRequest
from clasper.core.model_ref import OFFLINE, PROVIDERS, parse_model_ref, provider_id
from clasper.core.money import usd

DEFAULT_OUTPUT_TOKENS = 1000


class ForecastInput(TenantInput):
    """A call that may be made."""

    model = serializers.CharField(help_text="`provider/model`, or `model` of the default provider.")
    estimated_input_tokens = serializers.IntegerField(min_value=0, max_value=MAX_TOKENS)
    estimated_output_tokens = serializers.IntegerField(default=DEFAULT_OUTPUT_TOKENS, min_value=0, max_value=MAX_TOKENS)
    provider = serializers.CharField(
        required=False, help_text="Whose model a name without provider means. Default: LLM_PROVIDER."
    )

    aliases: ClassVar[Mapping[str, str]] = {
        "prompt_size": "estimated_input_tokens",
        "max_output_tokens": "estimated_output_tokens",
    }

    def rule_faults(self, values: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, list[str]]:
        faults: dict[str, list[str]] = {}
        if "model" in values:
            try:
                parse_model_ref(values["model"], "")
            except InvalidRequest as error:
                faults.update(error.details["fieldErrors"])
        if "provider" in values and provider_id(values["provider"]) not in (*PROVIDERS, OFFLINE):
            faults["provider"] = [f"Must be one of {', '.join((*PROVIDERS, OFFLINE))}."]
        return faults


class ForecastAmounts(serializers.Serializer[Any]):
    """What the call would cost, in USD, and what the budget says to it."""

    estimatedCost = serializers.FloatField()  # noqa: N815  the API's spelling
    budgetRemaining = serializers.FloatField(  # noqa: N815
        allow_null=True, help_text="Limit less spent; null without a budget."
    )
    wouldExceedBudget = serializers.BooleanField(  # noqa: N815
        help_text="The hard limit does not hold it: `POST /budget/check` would answer `allowed: false`."
    )
    recommendation = serializers.ChoiceField(
        choices=RECOMMENDATIONS, help_text="`warn`: reaches the soft limit. `block`: the run would be refused."
    )
    inputCost = serializers.FloatField()  # noqa: N815
    outputCost = serializers.FloatField()  # noqa: N815
    model = serializers.CharField(help_text="The model that was priced, as `provider/model`.")
    priceVersion = serializers.CharField(help_text="Where the price comes from.")  # noqa: N815
    estimated = serializers.BooleanField(help_text="The price is unknown; the ceiling price was taken.")
    reason = serializers.CharField(required=False, help_text="Present unless the recommendation is `ok`.")


class ForecastAnswer(serializers.Serializer[Any]):
    status = serializers.CharField()
    forecast = ForecastAmounts()


class ForecastView(APIView):
    """What a call would cost."""

    required_scopes: ClassVar[dict[str, str]] = {"POST": GOVERNANCE_READ}

    @extend_schema(operation_id="cost_forecast", request=ForecastInput, responses=ForecastAnswer)
    def post(self, request: Request) -> Response:
        """What a call of a model would cost and whether the tenant's budget holds it. Reserves nothing."""
        tenant_id, values = read_tenant_input(ForecastInput, request, body_of(request))
        forecast = forecast_cost(
            tenant_id=tenant_id,
            model=values["model"],
            input_tokens=values["estimated_input_tokens"],
            output_tokens=values["estimated_output_tokens"],
            provider=values.get("provider", ""),
            now=utc_now(),
        )
        return Response({"status": "ok", "forecast": forecast_json(forecast)})


def forecast_json(forecast: Forecast) -> dict[str, Any]:
    """The forecast as the API shows it."""
    call, advice = forecast.call, forecast.advice
    return {
        "estimatedCost": usd(call.cost.total),
        "budgetRemaining": None if forecast.remaining is None else usd(forecast.remaining),
        "wouldExceedBudget": advice.would_exceed,
        "recommendation": advice.recommendation,
        "inputCost": usd(call.cost.input),
        "outputCost": usd(call.cost.output),
        "model": str(call.ref),
        "priceVersion": call.price_version,
        "estimated": call.estimated,
        **({"reason": advice.reason} if advice.reason else {}),
    }
