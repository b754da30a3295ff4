"""Endpoints that no app owns: health, version, compatibility."""

from __future__ import annotations

from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings
from django.db import DatabaseError, connection
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

import clasper
from apps.agents.engine import default_model
from apps.agents.services.providers import default_circuit
from apps.identity.domain.permissions import GOVERNANCE_READ
from apps.identity.services.authentication import authenticate_optional
from apps.skills.domain.text import MAX_CHARS_PER_FILE
from apps.workspaces.services import load_workspace
from clasper.core.clock import utc_now
from clasper.core.errors import ClasperError, InvalidRequest
from clasper.gateways.control_plane import backend_url, check_compatibility, control_plane
from clasper.gateways.control_plane.capabilities import CONTRACT_VERSION
from clasper.gateways.ssrf import UrlRefused

FEATURES = [
    "trace_diff",
    "trace_annotations",
    "trace_retention",
    "skill_lifecycle",
    "workspace_pinning",
    "workspace_environments",
    "cost_forecasting",
    "risk_scoring",
    "control_plane_versioning",
    "trace_linking",
    "impact_analysis",
]
"""Names of the API reference."""

COUNTED_TABLES = ("traces", "audit_log", "skill_registry")


class HealthView(APIView):
    """`GET /health`"""

    public = True

    @extend_schema(parameters=[OpenApiParameter("deep", bool)], responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> Response:
        """State of the parts. Paths, URLs and counts are shown to callers with a valid credential only."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        known = authenticate_optional(headers, now=utc_now()) is not None
        deep = request.query_params.get("deep") == "true"
        parts = {
            "workspace": _workspace(known),
            "backend": _backend(known, deep),
            "database": _database(known),
        }
        healthy = all(part["status"] in ("ok", "unchecked") for part in parts.values())
        body: dict[str, Any] = {"status": "ok" if healthy else "degraded", **parts}
        if known:
            model = default_model()
            body["config"] = {
                "port": settings.CLASPER_PORT,
                "defaultTask": settings.CLASPER_DEFAULT_TASK or None,
                "model": model.model,
                "provider": model.provider,
                "circuit": default_circuit(),
                "fallbackModel": settings.LLM_MODEL_FALLBACK or None,
            }
        return Response(body)


class LiveView(APIView):
    """`GET /health/live`"""

    public = True

    @extend_schema(responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> Response:
        """The process answers."""
        return Response({"status": "ok"})


class ReadyView(APIView):
    """`GET /health/ready`"""

    public = True

    @extend_schema(responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> Response:
        """The process can serve: 200 when the database answers, else 503."""
        ready = _database(False)["status"] == "ok"
        return Response({"status": "ok" if ready else "unavailable"}, status=200 if ready else 503)


class VersionView(APIView):
    """`GET /api/version`"""

    public = True

    @extend_schema(responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> Response:
        """Version of the server and of the contract, and the features by name."""
        body = {
            "version": clasper.__version__,
            "contractVersion": CONTRACT_VERSION,
            "contract_version": CONTRACT_VERSION,
            "name": "clasper",
            "features": FEATURES,
        }
        return Response(body)


class CompatibilityView(APIView):
    """`GET /api/compatibility`"""

    required_scopes = {"GET": GOVERNANCE_READ}

    @extend_schema(parameters=[OpenApiParameter("control_plane_url", str)], responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> Response:
        """Whether Clasper can work with a control plane: 200 if so, 503 if not."""
        url = request.query_params.get("control_plane_url") or None
        try:
            verdict = async_to_sync(check_compatibility)(url)
        except UrlRefused as error:
            raise InvalidRequest(field_errors={"control_plane_url": [str(error)]}) from error
        body: dict[str, Any] = {
            "compatible": verdict.compatible,
            "clasperContractVersion": verdict.clasper_contract_version,
            "controlPlaneContractVersion": verdict.control_plane_contract_version,
            "warnings": list(verdict.warnings),
            "missingFeatures": list(verdict.missing_features),
        }
        if not verdict.compatible:
            body["error"] = "The control plane lacks what Clasper needs, or could not be reached."
            body["code"] = "incompatible_control_plane"
        return Response(body, status=200 if verdict.compatible else 503)


def _workspace(known: bool) -> dict[str, Any]:
    workspace = load_workspace()
    part: dict[str, Any] = {"status": "missing" if workspace.missing else "ok"}
    if known:
        part = {"path": str(settings.CLASPER_WORKSPACE), **part, "maxCharsPerFile": MAX_CHARS_PER_FILE}
    return part


def _backend(known: bool, deep: bool) -> dict[str, Any]:
    part: dict[str, Any] = {"status": "unchecked"}
    if deep:
        try:
            async_to_sync(control_plane().ping)()
            part["status"] = "ok"
        except ClasperError as error:
            part["status"] = "error"
            if known:
                part["error"] = error.message
    return {"url": backend_url(), **part} if known else part


def _database(known: bool) -> dict[str, Any]:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            tables = _counts() if known else {}
    except DatabaseError:
        return {"status": "error"}
    if not known:
        return {"status": "ok"}
    path = str(connection.settings_dict["NAME"])
    return {"path": path, "status": "ok", "tables": tables}


def _counts() -> dict[str, int]:
    """Rows of the tables the API reference names; a table of a later release counts as empty."""
    existing = set(connection.introspection.table_names())
    counts = dict.fromkeys(COUNTED_TABLES, 0)
    with connection.cursor() as cursor:
        for table in COUNTED_TABLES:
            if table in existing:
                cursor.execute(f"SELECT COUNT(*) FROM {table}")
                counts[table] = cursor.fetchone()[0]
    return counts
