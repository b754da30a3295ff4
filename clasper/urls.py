"""Every HTTP route that is not a run: one include an app. Runs enter through `clasper.asgi`."""

from __future__ import annotations

from django.conf import settings
from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path
from rest_framework.views import APIView

from clasper import api, openapi
from clasper.ops import scrape

# /api/schema describes the routes, so they need not answer OPTIONS, which the runs' endpoints do not allow either.
APIView.http_method_names = [method for method in APIView.http_method_names if method != "options"]

admin.site.site_header = admin.site.site_title = "Clasper"
admin.site.index_title = "Records"

urlpatterns: list[URLPattern | URLResolver] = [
    path("health", api.HealthView.as_view()),
    path("health/live", api.LiveView.as_view()),
    path("health/ready", api.ReadyView.as_view()),
    path("metrics", scrape.MetricsView.as_view()),
    path("api/version", api.VersionView.as_view()),
    path("api/compatibility", api.CompatibilityView.as_view()),
    path("api/schema", openapi.SchemaView.as_view(), name="schema"),
    path("api/docs", openapi.DocsView.as_view(url_name="schema"), name="docs"),
    path("admin/", admin.site.urls),
    path("", include("apps.governance.urls")),
    path("", include("apps.traces.urls")),
    path("", include("apps.workspaces.urls")),
]
if not settings.BACKEND_URL:
    # With a configured backend the embedded control plane would only be another endpoint to attack.
    urlpatterns.append(path("", include("apps.control_plane.urls")))

handler400 = "clasper.core.http.bad_request"
handler404 = "clasper.core.http.not_found"
handler500 = "clasper.core.http.server_error"
