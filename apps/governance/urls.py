"""Governance's REST routes."""

from __future__ import annotations

from django.urls import URLPattern, path

from apps.governance.api.audit import AuditStatsView, AuditView
from apps.governance.api.audit_proof import AuditCheckpointView, AuditExportView, AuditVerifyView
from apps.governance.api.budgets import BudgetCheckView, BudgetView, UsageView
from apps.governance.api.forecast import ForecastView
from apps.governance.api.risk import RiskView

urlpatterns: list[URLPattern] = [
    path("audit", AuditView.as_view()),
    path("audit/checkpoint", AuditCheckpointView.as_view()),
    path("audit/export", AuditExportView.as_view()),
    path("audit/stats", AuditStatsView.as_view()),
    path("audit/verify", AuditVerifyView.as_view()),
    path("budget", BudgetView.as_view()),
    path("budget/check", BudgetCheckView.as_view()),
    path("cost/forecast", ForecastView.as_view()),
    path("risk/score", RiskView.as_view()),
    path("usage", UsageView.as_view()),
]
