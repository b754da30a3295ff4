"""Budgets and usage over HTTP: GET and POST /budget, POST (and GET) /budget/check, GET /usage."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.governance.domain.budget import DEFAULT_PERIOD, HardLimit, Period, terms_errors
from apps.governance.services import budgets
from apps.governance.services.usage import UsageTotals, usage_totals
from apps.identity.api import OneTenantQuery, TenantQuery, principal_of, read_body, read_query
from apps.identity.domain.permissions import GOVERNANCE_READ, GOVERNANCE_WRITE
from clasper.core.clock import utc_now
from clasper.core.http import operation
from clasper.core.money import NanoUSD
from clasper.core.schemas import (
    Codec,
    Errors,
    Input,
    Instant,
    Money,
    OneTenantId,
    Query,
    about,
    read_money,
)


def _read_hard_limit(value: Any) -> HardLimit:
    """Older clients write true for the limit and false for none."""
    if isinstance(value, bool):
        return "limit" if value else None
    return read_money(value)


class BudgetInput(Input, frozen=True, kw_only=True):
    """A tenant's new budget, in USD."""

    tenant_id: OneTenantId
    limit: Annotated[Money, about("What the tenant means to spend in a period.", example=100)]
    period: Annotated[Period, about("In UTC.")] = DEFAULT_PERIOD
    soft_limit: Annotated[Money | None, about("Warns. Default: 80 % of the hard limit.", example=75)] = None
    hard_limit: Annotated[
        NanoUSD | Literal["limit"] | None,
        Codec(read=_read_hard_limit, json=float | bool | None),
        about("Refuses. Default, or true: the limit; null or false: never.", example=100),
    ] = "limit"
    alert_threshold: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None, about("The soft limit as a share of the hard limit.")
    ] = None
    allow_unpriced: Annotated[
        bool | None, about("Let models of unknown price run, estimated at a ceiling price. Default: as before.")
    ] = None

    aliases: ClassVar[Mapping[str, str]] = {"budget_usd": "limit"}

    @classmethod
    def cross_field_errors(cls, values: Mapping[str, Any], given: Mapping[str, Any]) -> Errors:
        return terms_errors({**values, "soft_limit": _soft_limit(**values)})


def _soft_limit(
    *,
    limit: NanoUSD | None = None,
    soft_limit: NanoUSD | None = None,
    hard_limit: HardLimit = "limit",
    alert_threshold: float | None = None,
    **_: Any,
) -> NanoUSD | None:
    if soft_limit is not None or alert_threshold is None:
        return soft_limit
    base = hard_limit if isinstance(hard_limit, int) else limit
    return base and NanoUSD(max(1, int(base * Decimal(str(alert_threshold)))))


class AmountInput(Input, frozen=True, kw_only=True):
    """An amount to be checked against the tenant's budget, in USD."""

    tenant_id: OneTenantId
    amount: Annotated[Money, about(example=5)]

    aliases: ClassVar[Mapping[str, str]] = {"estimated_cost": "amount"}


class AmountQuery(Query, AmountInput, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The same, in a query."""


class UsageQuery(TenantQuery, frozen=True, kw_only=True):
    """Whose usage, since when."""

    since: Annotated[Instant | None, about("First UTC day that counts. Default: today.")] = None


class BudgetSet(budgets.TenantBudget, frozen=True, kw_only=True):
    """The new budget."""

    status: Literal["ok"] = "ok"


class BudgetView(APIView):
    """A tenant's budget."""

    required_scopes: ClassVar[dict[str, str]] = {"GET": GOVERNANCE_READ, "POST": GOVERNANCE_WRITE}

    @operation("budget_get", query=OneTenantQuery, response=budgets.TenantBudget)
    def get(self, request: Request) -> Response:
        """The tenant's budget in its current period; 404 when it has none."""
        _, query = read_query(OneTenantQuery, request)
        return Response(budgets.get_budget(tenant_id=query.tenant_id, now=utc_now()))

    @operation("budget_set", body=BudgetInput, response=BudgetSet)
    def post(self, request: Request) -> Response:
        """Creates or replaces the tenant's budget; spending of the period so far counts."""
        _, body = read_body(BudgetInput, request)
        view = budgets.set_budget(
            tenant_id=body.tenant_id,
            actor=principal_of(request).actor,
            now=utc_now(),
            limit=body.limit,
            period=body.period,
            soft_limit=_soft_limit(**msgspec.structs.asdict(body)),
            hard_limit=body.hard_limit,
            allow_unpriced=body.allow_unpriced,
        )
        return Response(BudgetSet(**msgspec.structs.asdict(view)))


class BudgetCheckView(APIView):
    """Whether an amount fits a tenant's budget."""

    required_scopes: ClassVar[dict[str, str]] = {"GET": GOVERNANCE_READ, "POST": GOVERNANCE_READ}

    @operation("budget_check", body=AmountInput, response=budgets.BudgetCheck)
    def post(self, request: Request) -> Response:
        """Whether a run that may cost `amount` would be admitted now. Reserves nothing; answers 200 either way."""
        _, body = read_body(AmountInput, request)
        return Response(budgets.check_budget(tenant_id=body.tenant_id, amount=body.amount, now=utc_now()))

    @operation("budget_check_get", query=AmountQuery, response=budgets.BudgetCheck)
    def get(self, request: Request) -> Response:
        """The same as POST, with the amount (or `estimated_cost`) in the query."""
        _, query = read_query(AmountQuery, request)
        return Response(budgets.check_budget(tenant_id=query.tenant_id, amount=query.amount, now=utc_now()))


class UsageView(APIView):
    """What has been used."""

    required_scopes: ClassVar[dict[str, str]] = {"GET": GOVERNANCE_READ}

    @operation("usage_get", query=UsageQuery, response=UsageTotals)
    def get(self, request: Request) -> Response:
        """Requests, tokens and cost since a day, of the tenant or, with the platform key, of all tenants."""
        now = utc_now()
        tenants, query = read_query(UsageQuery, request)
        return Response(usage_totals(tenants=tenants, since=query.since or now, now=now))
