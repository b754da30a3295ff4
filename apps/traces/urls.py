from __future__ import annotations

from django.urls import path

from apps.traces.api import TraceDetailView, TraceListView, TraceStatsView

urlpatterns = [
    path("traces", TraceListView.as_view()),
    path("traces/stats", TraceStatsView.as_view()),
    path("traces/<str:trace_id>", TraceDetailView.as_view()),
]
