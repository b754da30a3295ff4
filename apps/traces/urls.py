from __future__ import annotations

from django.urls import path

from apps.traces.api.annotations import TraceAnnotateView, TraceAnnotationsView
from apps.traces.api.diff import DiffView
from apps.traces.api.export import TraceExportView
from apps.traces.api.labels import TraceByLabelView, TraceLabelView
from apps.traces.api.lists import TraceByEntityView, TraceDetailView, TraceListView
from apps.traces.api.retention import EnforceView, PolicyView, StatsView
from apps.traces.api.stats import TraceStatsView

urlpatterns = [
    path("traces", TraceListView.as_view()),
    path("traces/stats", TraceStatsView.as_view()),
    path("traces/by-label", TraceByLabelView.as_view()),
    path("traces/by-entity", TraceByEntityView.as_view()),
    path("traces/export", TraceExportView.as_view()),
    path("traces/diff", DiffView.as_view()),
    path("traces/<str:trace_id>", TraceDetailView.as_view()),
    path("traces/<str:trace_id>/label", TraceLabelView.as_view()),
    path("traces/<str:trace_id>/annotate", TraceAnnotateView.as_view()),
    path("traces/<str:trace_id>/annotations", TraceAnnotationsView.as_view()),
    path("retention/policy", PolicyView.as_view()),
    path("retention/enforce", EnforceView.as_view()),
    path("retention/stats", StatsView.as_view()),
]
