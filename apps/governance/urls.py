"""Governance's REST routes."""

from __future__ import annotations

from django.urls import URLPattern, path

from apps.governance.api.audit import AuditStatsView, AuditVerifyView, AuditView
from apps.governance.api.budgets import BudgetCheckView, BudgetView, UsageView
from apps.governance.api.forecast import ForecastView

urlpatterns: list[URLPattern] = [
    path("audit", AuditView.as_view()),
    path("audit/stats", AuditStatsView.as_view()),
    path("audit/verify", AuditVerifyView.as_view()),
    path("budget", BudgetView.as_view()),
    path("budget/check", BudgetCheckView.as_view()),
    path("cost/forecast", ForecastView.as_view()),
    path("usage", UsageView.as_view()),
]
