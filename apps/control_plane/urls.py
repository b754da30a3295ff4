"""Routes of the embedded control plane. `GET /health` at its base URL is Clasper's own, which answers for both."""

from __future__ import annotations

from django.urls import URLPattern, path

from apps.control_plane import api

_ROOT = "api/mission-control"

urlpatterns: list[URLPattern] = [
    path(f"{_ROOT}/health", api.HealthView.as_view()),
    path(f"{_ROOT}/capabilities", api.CapabilitiesView.as_view()),
    path(f"{_ROOT}/tasks", api.TasksView.as_view()),
    path(f"{_ROOT}/tasks/<str:task_id>", api.TaskView.as_view()),
    path(f"{_ROOT}/tasks/<str:task_id>/messages", api.TaskMessagesView.as_view()),
    path(f"{_ROOT}/tasks/<str:task_id>/documents", api.TaskDocumentsView.as_view()),
    path(f"{_ROOT}/messages", api.MessagesView.as_view()),
    path(f"{_ROOT}/documents", api.DocumentsView.as_view()),
    path("api/tools", api.ToolsView.as_view()),
    path("api/tools/<path:name>", api.ToolView.as_view()),
]
