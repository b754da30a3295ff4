"""Endpoints that no app owns: health, version, compatibility."""

from __future__ import annotations

from typing import Annotated, Literal

from asgiref.sync import async_to_sync
from django.conf import settings
from django.db import DatabaseError, connection
from msgspec import UNSET, UnsetType
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

import clasper
from apps.agents.services.providers import default_circuit, default_model
from apps.identity.api import read_query
from apps.identity.domain.permissions import GOVERNANCE_READ
from apps.identity.services.authentication import authenticate_optional
from apps.skills.domain.text import MAX_CHARS_PER_FILE
from apps.workspaces.services import load_workspace
from clasper.core.clock import utc_now
from clasper.core.errors import ClasperError, InvalidRequest
from clasper.core.http import operation
from clasper.core.schemas import Codec, Count, Query, Resource, about
from clasper.core.validation import read
from clasper.gateways.control_plane import backend_url, check_compatibility, control_plane
from clasper.gateways.control_plane.capabilities import CONTRACT_VERSION
from clasper.gateways.ssrf import UrlRefused

FEATURES = (
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
)
"""Names of the API reference."""

COUNTED_TABLES = ("traces", "audit_log", "skill_registry")


class HealthPart(Resource, frozen=True, kw_only=True, rename="camel"):
    """A part of the server; everything but its status is for callers with a valid credential."""

    path: str | UnsetType = UNSET
    url: str | UnsetType = UNSET
    status: Annotated[str, about("`ok`, `unchecked`, `missing` or `error`.", example="ok")]
    error: str | UnsetType = UNSET
    tables: Annotated[dict[str, int] | UnsetType, about("Rows.")] = UNSET
    max_chars_per_file: Count | UnsetType = UNSET


class HealthConfig(Resource, frozen=True, kw_only=True, rename="camel"):
    """How the server is set up."""

    port: Annotated[int, about(example=8081)]
    default_task: str | None
    model: Annotated[str, about(example="gpt-4o")]
    provider: Annotated[str, about(example="openai")]
    circuit: Annotated[str, about(example="closed")]
    fallback_model: Annotated[str | None, about(example=None)]


class Health(Resource, frozen=True, kw_only=True):
    """The state of the parts."""

    status: Literal["ok", "degraded"]
    workspace: HealthPart
    backend: HealthPart
    database: HealthPart
    config: Annotated[HealthConfig | UnsetType, about("For callers with a valid credential.")] = UNSET


class Live(Resource, frozen=True, kw_only=True):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(Resource, frozen=True, kw_only=True):
    """Whether the process can serve."""

    status: Literal["ok", "unavailable"]


class Version(Resource, frozen=True, kw_only=True):
    """Version of the server and of the contract, and the features by name."""

    version: Annotated[str, about(example="1.1.0")] = clasper.__version__
    contractVersion: str = CONTRACT_VERSION  # noqa: N815  both spellings are shown
    contract_version: str = CONTRACT_VERSION
    name: str = "clasper"
    features: Annotated[tuple[str, ...], about(example=["trace_diff"])] = FEATURES


class ControlPlaneCompatibility(Resource, frozen=True, kw_only=True, rename="camel"):
    """Whether Clasper can work with the control plane."""

    compatible: bool
    clasper_contract_version: Annotated[str, about(example="v1")]
    control_plane_contract_version: Annotated[str | None, about(example="v1")]
    warnings: Annotated[tuple[str, ...], about(example=[])]
    missing_features: Annotated[tuple[str, ...], about(example=[])]
    error: str | UnsetType = UNSET
    code: Literal["incompatible_control_plane"] | UnsetType = UNSET


class HealthQuery(Query, frozen=True, kw_only=True):
    """How thoroughly."""

    deep: Annotated[bool, Codec(read=lambda text: text == "true", json=bool), about("Also call the control plane.")] = (
        False
    )


class CompatibilityQuery(Query, frozen=True, kw_only=True):
    """Which control plane."""

    control_plane_url: Annotated[str | None, about("Default: the configured one.")] = None


class HealthView(APIView):
    """`GET /health`"""

    public = True

    @operation("health", query=HealthQuery, response=Health)
    def get(self, request: Request) -> Response:
        """State of the parts. Paths, URLs and counts are shown to callers with a valid credential only."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        known = authenticate_optional(headers, now=utc_now()) is not None
        query = read(HealthQuery, request.query_params.dict(), strict=False)
        parts = {"workspace": _workspace(known), "backend": _backend(known, query.deep), "database": _database(known)}
        healthy = all(part.status in ("ok", "unchecked") for part in parts.values())
        config = _config() if known else UNSET
        return Response(Health(status="ok" if healthy else "degraded", **parts, config=config))


class LiveView(APIView):
    """`GET /health/live`"""

    public = True

    @operation("health_live", response=Live)
    def get(self, request: Request) -> Response:
        """The process answers."""
        return Response(Live())


class ReadyView(APIView):
    """`GET /health/ready`"""

    public = True

    @operation("health_ready", response={200: Ready, 503: Ready})
    def get(self, request: Request) -> Response:
        """The process can serve: 200 when the database answers, else 503."""
        ready = _database(False).status == "ok"
        return Response(Ready(status="ok" if ready else "unavailable"), status=200 if ready else 503)


class VersionView(APIView):
    """`GET /api/version`"""

    public = True

    @operation("api_version", response=Version)
    def get(self, request: Request) -> Response:
        """Version of the server and of the contract, and the features by name."""
        return Response(Version())


class CompatibilityView(APIView):
    """`GET /api/compatibility`"""

    required_scopes = {"GET": GOVERNANCE_READ}

    @operation(
        "api_compatibility",
        query=CompatibilityQuery,
        response={200: ControlPlaneCompatibility, 503: ControlPlaneCompatibility},
    )
    def get(self, request: Request) -> Response:
        """Whether Clasper can work with a control plane: 200 if so, 503 if not."""
        _, query = read_query(CompatibilityQuery, request)
        try:
            found = async_to_sync(check_compatibility)(query.control_plane_url or None)
        except UrlRefused as error:
            raise InvalidRequest(field_errors={"control_plane_url": [str(error)]}) from error
        shown = ControlPlaneCompatibility(
            compatible=found.compatible,
            clasper_contract_version=found.clasper_contract_version,
            control_plane_contract_version=found.control_plane_contract_version,
            warnings=found.warnings,
            missing_features=found.missing_features,
            error=UNSET if found.compatible else "The control plane lacks what Clasper needs, or could not be reached.",
            code=UNSET if found.compatible else "incompatible_control_plane",
        )
        return Response(shown, status=200 if found.compatible else 503)


def _config() -> HealthConfig:
    model = default_model()
    return HealthConfig(
        port=settings.CLASPER_PORT,
        default_task=settings.CLASPER_DEFAULT_TASK or None,
        model=model.model,
        provider=model.provider,
        circuit=default_circuit(),
        fallback_model=settings.LLM_MODEL_FALLBACK or None,
    )


def _workspace(known: bool) -> HealthPart:
    status = "missing" if load_workspace().missing else "ok"
    if not known:
        return HealthPart(status=status)
    return HealthPart(path=str(settings.CLASPER_WORKSPACE), status=status, max_chars_per_file=MAX_CHARS_PER_FILE)


def _backend(known: bool, deep: bool) -> HealthPart:
    url = backend_url() if known else UNSET
    if not deep:
        return HealthPart(url=url, status="unchecked")
    try:
        async_to_sync(control_plane().ping)()
    except ClasperError as error:
        return HealthPart(url=url, status="error", error=error.message if known else UNSET)
    return HealthPart(url=url, status="ok")


def _database(known: bool) -> HealthPart:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            tables = _counts() if known else {}
    except DatabaseError:
        return HealthPart(status="error")
    if not known:
        return HealthPart(status="ok")
    return HealthPart(path=str(connection.settings_dict["NAME"]), status="ok", tables=tables)


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
