"""Routes of the workspace on disk."""

from __future__ import annotations

from django.urls import URLPattern, path

from apps.workspaces.api import BootCompleteView, BootView, ContextView, WorkspaceSkillsView

urlpatterns: list[URLPattern] = [
    path("skills", WorkspaceSkillsView.as_view(), name="workspace-skills"),
    path("boot", BootView.as_view(), name="boot"),
    path("boot/complete", BootCompleteView.as_view(), name="boot-complete"),
    path("context", ContextView.as_view(), name="context"),
]
