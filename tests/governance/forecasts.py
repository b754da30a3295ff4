"""The routes of budgets and forecasts by themselves, callers of them, and budgets to forecast against."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from django.test import Client
from django.urls import path

from apps.governance.api.budgets import BudgetCheckView, BudgetView
from apps.governance.api.forecast import ForecastView
from apps.governance.models import Budget
from apps.governance.services.budgets import set_budget
from apps.identity.services.keys import create_api_key
from clasper.core.clock import utc_now
from clasper.core.money import from_usd

urlpatterns = [
    path("budget", BudgetView.as_view()),
    path("budget/check", BudgetCheckView.as_view()),
    path("cost/forecast", ForecastView.as_view()),
]

DAEMON_KEY = "daemon-key-of-the-tests"


class Caller:
    """Somebody with a credential."""

    def __init__(self, **headers: str) -> None:
        self._client = Client(headers=headers)

    def get(self, route: str, **query: Any) -> Any:
        return self._client.get(route, query)

    def post(self, route: str, body: Any) -> Any:
        return self._client.post(route, json.dumps(body), content_type="application/json")

    def forecast(self, **body: Any) -> dict[str, Any]:
        """The forecast of a call that must be understood; by default of gpt-4 with 5000 and 1000 tokens."""
        answer = self.post("/cost/forecast", {"model": "gpt-4", "estimated_input_tokens": 5000, **body})
        assert answer.status_code == 200, answer.content
        assert answer.json()["status"] == "ok"
        forecast: dict[str, Any] = answer.json()["forecast"]
        return forecast


def key_of(tenant_id: str, *scopes: str) -> Caller:
    made = create_api_key(
        tenant_id=tenant_id, name="test", scopes=scopes, actor="test:setup", now=utc_now() - timedelta(minutes=1)
    )
    return Caller(Authorization=f"Bearer {made.key}")


def give(
    tenant_id: str = "acme",
    *,
    spent: str = "0",
    reserved: str = "0",
    allow_unpriced: bool = False,
    **limits: str | None,
) -> None:
    """A budget of 100 USD unless told otherwise; amounts in dollars."""
    terms: dict[str, Any] = {name: None if value is None else from_usd(value) for name, value in limits.items()}
    terms = {"limit": from_usd(100), "allow_unpriced": allow_unpriced, **terms}
    set_budget(tenant_id=tenant_id, actor="test:setup", now=utc_now(), **terms)
    Budget.objects.filter(tenant_id=tenant_id).update(spent=from_usd(spent), reserved=from_usd(reserved))


def faults(answer: Any) -> set[str]:
    body = answer.json()
    assert answer.status_code == 400
    assert body["code"] == "invalid_request"
    assert body["details"]["formErrors"] == []
    return set(body["details"]["fieldErrors"])
