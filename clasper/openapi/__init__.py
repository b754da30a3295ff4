"""The OpenAPI document and its page: what drf-spectacular finds in Django, the runs, and the one error body.

Runs are no Django views; `runs` describes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
from django.http import HttpResponse
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularSwaggerSplitView
from rest_framework.request import Request
from rest_framework.views import APIView

from apps.agents.urls import run_routes
from clasper.core import errors
from clasper.core.http import JSONRenderer
from clasper.openapi.events import EVENTS_PATH
from clasper.openapi.runs import (
    BODIES,
    FIELDS,
    PARAMETERS,
    REF,
    REPLAYED_HEADER,
    RETRY_HEADER,
    RUNS,
    SCHEMAS,
    TRACE_HEADER,
    ref,
)

_RUN_ERRORS: tuple[type[errors.ClasperError], ...] = (
    errors.InvalidRequest,
    errors.ContextTooLong,
    errors.UnknownModel,
    errors.Unauthenticated,
    errors.BudgetExceeded,
    errors.UnpricedModel,
    errors.InvalidDaemonKey,
    errors.PermissionDenied,
    errors.Conflict,
    errors.IdempotencyMismatch,
    errors.InProgress,
    errors.BodyTooLarge,
    errors.UnsupportedMediaType,
    errors.RateLimited,
    errors.ProviderFailed,
    errors.BackendFailed,
    errors.Unavailable,
    errors.RunTimeout,
)

_TAGS = {
    "traces": "Traces",
    "audit": "Governance",
    "budget": "Governance",
    "cost": "Governance",
    "retention": "Traces",
    "risk": "Governance",
    "usage": "Governance",
    "skills": "Workspace",
    "context": "Workspace",
    "boot": "Workspace",
    "health": "Server",
    "api": "Server",
    "metrics": "Server",
    "ops": "Operations",
}
"""The page's sections, by the first word of the route."""


def add_runs(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Postprocessing hook: puts the runs before the other routes, the error body and a section into every operation.

    Raises KeyError for a run route that is not described here.
    """
    components = result.setdefault("components", {})
    components.setdefault("schemas", {}).update(_schemas())
    components["responses"] = {"Error": _error_response("The one error body, with a fitting status.")}
    components["parameters"] = PARAMETERS
    for path, methods in result["paths"].items():
        section = path.split("/")[1]
        for operation in methods.values():
            operation["responses"]["default"] = {"$ref": "#/components/responses/Error"}
            operation["tags"] = [_TAGS.get(section, section)]
    runs = {_templated(route): _path(route, consumer.methods) for route, consumer in run_routes}
    result["paths"] = {**runs, **result["paths"], **EVENTS_PATH}
    return result


def _schemas() -> dict[str, Any]:
    _, found = msgspec.json.schema_components(BODIES, ref_template=REF)
    for name, texts in FIELDS.items():
        for field, text in texts.items():
            found[name]["properties"][field]["description"] = text
    return {**found, **SCHEMAS}


_ARGUMENT = re.compile(r"<(?:\w+:)?(\w+)>")


def _templated(route: str) -> str:
    return "/" + _ARGUMENT.sub(r"{\1}", route)


def _path(route: str, methods: Sequence[str]) -> dict[str, Any]:
    described = RUNS[route]
    return {method.lower(): _operation(route, described.get(method, described)) for method in methods}


def _operation(route: str, described: Mapping[str, Any]) -> dict[str, Any]:
    answer = {
        "description": "The run ended with an answer, or its stream begins.",
        "headers": {**TRACE_HEADER, **(REPLAYED_HEADER if "Idempotency-Key" in described["parameters"] else {})},
        "content": described["content"],
    }
    arguments = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _ARGUMENT.findall(route)
    ]
    operation = {
        "operationId": described["operationId"],
        "summary": described["summary"],
        "description": described["description"],
        "tags": ["Runs"],
        "parameters": [
            *arguments,
            *({"$ref": f"#/components/parameters/{name}"} for name in described["parameters"]),
        ],
        "security": [{"daemonKey": []}, {"tenantKey": []}],
        "responses": {"200": answer, **_run_errors()},
    }
    if "body" in described:
        content = {"application/json": {"schema": ref(described["body"])}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _run_errors() -> dict[str, Any]:
    """The ways a run can fail, by status, with their codes."""
    codes: dict[int, list[str]] = {}
    for kind in _RUN_ERRORS:
        codes.setdefault(kind.status, []).append(f"`{kind.code}`: {kind.default_message}")
    headers = {429: RETRY_HEADER}
    return {
        str(status): _error_response("\n\n".join(texts), {**TRACE_HEADER, **headers.get(status, {})})
        for status, texts in sorted(codes.items())
    }


def _error_response(description: str, headers: Mapping[str, Any] | None = None) -> dict[str, Any]:
    found = {"description": description, "content": {"application/json": {"schema": ref("Error")}}}
    return {**found, "headers": dict(headers)} if headers else found


@cache
def document() -> bytes:
    """The document as JSON. It depends on the code alone, so it is made once."""
    generator: Any = SchemaGenerator
    found: bytes = OpenApiJsonRenderer().render(generator().get_schema(request=None, public=True))
    return found


class SchemaView(APIView):
    """`GET /api/schema`"""

    public = True

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        """The OpenAPI document."""
        return HttpResponse(document(), content_type="application/json")


class DocsView(SpectacularSwaggerSplitView):
    """`GET /api/docs`: the document as a page. Its scripts and styles are files served from here."""

    public = True

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """A refusal is the one error body here, too; the page's own renderer would write HTML."""
        if getattr(response, "exception", False):
            request.accepted_renderer, request.accepted_media_type = JSONRenderer(), JSONRenderer.media_type
        return super().finalize_response(request, response, *args, **kwargs)
