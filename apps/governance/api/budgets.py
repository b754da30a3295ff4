"""The doors to budgets and usage: GET and POST /budget, POST (and GET) /budget/check, GET /usage."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.governance.domain.budget import DEFAULT_PERIOD, MAX_AMOUNT, PERIODS, HardLimit, last_instant, terms_errors
from apps.governance.services import budgets
from apps.governance.services.usage import usage_totals
from apps.identity.api import principal_of, tenant_of
from apps.identity.domain.permissions import GOVERNANCE_READ, GOVERNANCE_WRITE
from clasper.core.clock import iso, utc_now
from clasper.core.inputs import Input, NumberField
from clasper.core.money import NANO_PER_USD, NanoUSD, from_usd, usd
from clasper.core.tenancy import AllTenants, TenantScope

MAX_USD = Decimal(MAX_AMOUNT // NANO_PER_USD)

TENANT_PARAMETER = OpenApiParameter(
    "tenant_id", OpenApiTypes.STR, description="Needed with the platform key; a tenant's key stands for its own."
)


class USDField(serializers.DecimalField):
    """Dollars as a JSON number or a numeric text, as an exact Decimal. Bounded here, before any arithmetic."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_digits=None, decimal_places=None, min_value=0, max_value=MAX_USD, **kwargs)


class HardLimitField(USDField):
    """An amount, null for none, or as older clients write it: true (same as the limit) or false (none)."""

    def to_internal_value(self, data: Any) -> Any:
        return data if isinstance(data, bool) else super().to_internal_value(data)


class TenantInput(Input):
    """A body or query about one tenant."""

    tenant_id = serializers.CharField(
        required=False,
        max_length=128,
        trim_whitespace=False,
        help_text="Needed with the platform key; a tenant's key stands for its own.",
    )

    tenant_required: ClassVar[bool] = True

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        fields = super().get_fields()
        fields["tenant_id"].required = self.tenant_required and isinstance(self.context.get("tenants"), AllTenants)
        return fields


class BudgetInput(TenantInput):
    """A tenant's new budget, in USD."""

    limit = USDField(help_text="What the tenant means to spend in a period.")
    period = serializers.CharField(default=DEFAULT_PERIOD, help_text=f"One of {', '.join(PERIODS)}; UTC.")
    soft_limit = USDField(required=False, allow_null=True, help_text="Warns. Default: 80 % of the hard limit.")
    hard_limit = HardLimitField(required=False, allow_null=True, help_text="Refuses. Default: the limit; null: never.")
    alert_threshold = NumberField(
        required=False, min_value=0, max_value=1, help_text="The soft limit as a share of the hard limit."
    )
    allow_unpriced = serializers.BooleanField(
        required=False, help_text="Let models of unknown price run, estimated at a ceiling price."
    )

    aliases: ClassVar[Mapping[str, str]] = {"budget_usd": "limit"}

    def rule_faults(self, values: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, list[str]]:
        return terms_errors({**terms_in(values), "period": values.get("period", DEFAULT_PERIOD)})


class AmountInput(TenantInput):
    """An amount to be checked against the tenant's budget, in USD."""

    amount = USDField()

    aliases: ClassVar[Mapping[str, str]] = {"estimated_cost": "amount"}


class UsageInput(TenantInput):
    """Whose usage, since when."""

    since = serializers.DateTimeField(required=False, help_text="First UTC day that counts. Default: today.")

    tenant_required: ClassVar[bool] = False


class BudgetAmounts(serializers.Serializer[Any]):
    """The budget in its current period, in USD."""

    limit = serializers.FloatField()
    spent = serializers.FloatField()
    remaining = serializers.FloatField()
    reserved = serializers.FloatField(help_text="Held for runs under way; not counted as spent.")
    period = serializers.ChoiceField(choices=PERIODS)
    period_start = serializers.DateTimeField()
    period_end = serializers.DateTimeField()
    allow_unpriced = serializers.BooleanField()


class BudgetAlerts(serializers.Serializer[Any]):
    """Where spending warns and where it is refused, in USD."""

    soft_limit = serializers.FloatField()
    hard_limit = serializers.FloatField(allow_null=True)


class BudgetAnswer(serializers.Serializer[Any]):
    tenant_id = serializers.CharField()
    budget = BudgetAmounts()
    alerts = BudgetAlerts()


class BudgetSetAnswer(BudgetAnswer):
    status = serializers.CharField()


class BudgetCheckAnswer(serializers.Serializer[Any]):
    """Allowed: `remaining_after` and `warnings`. Refused: `remaining`, `requested` and `error`."""

    allowed = serializers.BooleanField()
    remaining_after = serializers.FloatField(required=False, allow_null=True)
    warnings = serializers.ListField(child=serializers.CharField(), required=False)
    remaining = serializers.FloatField(required=False)
    requested = serializers.FloatField(required=False)
    error = serializers.CharField(required=False)


class UsageAnswer(serializers.Serializer[Any]):
    requestCount = serializers.IntegerField()  # noqa: N815  the API's spelling
    totalInputTokens = serializers.IntegerField()  # noqa: N815
    totalOutputTokens = serializers.IntegerField()  # noqa: N815
    totalTokens = serializers.IntegerField()  # noqa: N815
    totalCost = serializers.FloatField()  # noqa: N815
    currency = serializers.CharField()


class BudgetView(APIView):
    """A tenant's budget."""

    required_scopes: ClassVar[dict[str, str]] = {"GET": GOVERNANCE_READ, "POST": GOVERNANCE_WRITE}

    @extend_schema(operation_id="budget_get", parameters=[TENANT_PARAMETER], responses=BudgetAnswer)
    def get(self, request: Request) -> Response:
        """The tenant's budget in its current period; 404 when it has none."""
        tenant_id, _ = read_tenant_input(TenantInput, request, request.query_params.dict())
        return Response(budget_json(budgets.get_budget(tenant_id=tenant_id, now=utc_now())))

    @extend_schema(operation_id="budget_set", request=BudgetInput, responses=BudgetSetAnswer)
    def post(self, request: Request) -> Response:
        """Creates or replaces the tenant's budget; spending of the period so far counts."""
        tenant_id, values = read_tenant_input(BudgetInput, request, body_of(request))
        terms = terms_in(values)
        view = budgets.set_budget(
            tenant_id=tenant_id,
            actor=principal_of(request).actor,
            now=utc_now(),
            limit=terms["limit"],
            period=values["period"],
            soft_limit=terms["soft_limit"],
            hard_limit=terms["hard_limit"],
            allow_unpriced=values.get("allow_unpriced"),
        )
        return Response({"status": "ok", **budget_json(view)})


class BudgetCheckView(APIView):
    """Whether an amount fits a tenant's budget."""

    required_scopes: ClassVar[dict[str, str]] = {"GET": GOVERNANCE_READ, "POST": GOVERNANCE_READ}

    @extend_schema(operation_id="budget_check", request=AmountInput, responses=BudgetCheckAnswer)
    def post(self, request: Request) -> Response:
        """Whether a run that may cost `amount` would be let in now. Reserves nothing; 200 for both verdicts."""
        return self._check(request, body_of(request))

    @extend_schema(
        operation_id="budget_check_get",
        parameters=[TENANT_PARAMETER, OpenApiParameter("amount", OpenApiTypes.NUMBER, required=True)],
        responses=BudgetCheckAnswer,
    )
    def get(self, request: Request) -> Response:
        """The same as POST, with the amount (or `estimated_cost`) in the query."""
        return self._check(request, request.query_params.dict())

    def _check(self, request: Request, data: Mapping[str, Any]) -> Response:
        tenant_id, values = read_tenant_input(AmountInput, request, data)
        return Response(
            verdict_json(budgets.check_budget(tenant_id=tenant_id, amount=from_usd(values["amount"]), now=utc_now()))
        )


class UsageView(APIView):
    """What has been used."""

    required_scopes: ClassVar[dict[str, str]] = {"GET": GOVERNANCE_READ}

    @extend_schema(
        operation_id="usage_get",
        parameters=[
            OpenApiParameter("tenant_id", OpenApiTypes.STR, description="Default: every tenant the caller may see."),
            OpenApiParameter("since", OpenApiTypes.DATETIME, description="First UTC day that counts. Default: today."),
        ],
        responses=UsageAnswer,
    )
    def get(self, request: Request) -> Response:
        """Requests, tokens and cost since a day, of the tenant or, with the platform key, of all tenants."""
        now = utc_now()
        tenants, values = read_input(UsageInput, request, request.query_params.dict())
        totals = usage_totals(tenants=tenants, since=values.get("since", now), now=now)
        return Response(
            {
                "requestCount": totals.requests,
                "totalInputTokens": totals.input_tokens,
                "totalOutputTokens": totals.output_tokens,
                "totalTokens": totals.total_tokens,
                "totalCost": usd(totals.cost),
                "currency": "USD",
            }
        )


def body_of(request: Request) -> dict[str, Any]:
    """The JSON object of the body; the parser has refused everything else."""
    return request.data if isinstance(request.data, dict) else {}


def read_input(
    kind: type[TenantInput], request: Request, data: Mapping[str, Any]
) -> tuple[TenantScope, dict[str, Any]]:
    """Whose data the input is about, and its values.

    Raises PermissionDenied for a foreign tenant, which is audited, and a validation error naming all faults.
    """
    named = data.get("tenant_id")
    tenants = tenant_of(request, str(named) if isinstance(named, str | int) else None)
    serializer = kind(data=data, context={"tenants": tenants})
    serializer.is_valid(raise_exception=True)
    return tenants, serializer.validated_data


def read_tenant_input(kind: type[TenantInput], request: Request, data: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """As `read_input`, for an operation on one tenant, which the platform must name."""
    tenants, values = read_input(kind, request, data)
    if isinstance(tenants, AllTenants):
        raise serializers.ValidationError({"tenant_id": ["Name a tenant."]})
    return tenants.tenant_id, values


def terms_in(values: Mapping[str, Any]) -> dict[str, Any]:
    """The amounts of a budget's input in nano-USD, as far as they could be read, with the older spellings resolved."""
    terms: dict[str, Any] = {"hard_limit": _hard_limit(values), "soft_limit": None}
    if "limit" in values:
        terms["limit"] = from_usd(values["limit"])
    if values.get("soft_limit") is not None:
        terms["soft_limit"] = from_usd(values["soft_limit"])
    elif "alert_threshold" in values:
        base = terms["hard_limit"] if isinstance(terms["hard_limit"], int) else terms.get("limit")
        terms["soft_limit"] = base and NanoUSD(max(1, int(base * Decimal(str(values["alert_threshold"])))))
    return terms


def _hard_limit(values: Mapping[str, Any]) -> HardLimit:
    hard_limit = values.get("hard_limit", True)
    if hard_limit is True:
        return "limit"
    return None if hard_limit is None or hard_limit is False else from_usd(hard_limit)


def budget_json(view: budgets.BudgetView) -> dict[str, Any]:
    """The budget as the API shows it."""
    return {
        "tenant_id": view.tenant_id,
        "budget": {
            "limit": usd(view.limit),
            "spent": usd(view.spent),
            "remaining": usd(view.remaining),
            "reserved": usd(view.reserved),
            "period": view.period,
            "period_start": iso(view.period_start),
            "period_end": iso(last_instant(view.period_end)),
            "allow_unpriced": view.allow_unpriced,
        },
        "alerts": {
            "soft_limit": usd(view.soft_limit),
            "hard_limit": None if view.hard_limit is None else usd(view.hard_limit),
        },
    }


def verdict_json(verdict: budgets.BudgetVerdict) -> dict[str, Any]:
    """The verdict as the API shows it, in one of its two shapes."""
    if verdict.allowed:
        after = verdict.remaining_after
        return {
            "allowed": True,
            "remaining_after": None if after is None else usd(after),
            "warnings": list(verdict.warnings),
        }
    return {
        "allowed": False,
        "remaining": usd(verdict.remaining or 0),
        "requested": usd(verdict.requested),
        "error": "Exceeds hard limit",
    }
