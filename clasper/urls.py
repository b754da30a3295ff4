"""Every HTTP route that is not a run: one include an app. Runs enter through `clasper.asgi`."""

from __future__ import annotations

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

urlpatterns: list[URLPattern | URLResolver] = [
    path("admin/", admin.site.urls),
    path("", include("apps.governance.urls")),
    path("", include("apps.traces.urls")),
    path("", include("apps.workspaces.urls")),
    path("", include("apps.control_plane.urls")),
]
