"""The OpenAPI document and its page: what drf-spectacular finds in Django, the runs, and the one error body."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
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
from clasper.core.http import ErrorBody, JSONRenderer
from clasper.openapi.events import EVENTS_PATH
from clasper.openapi.runs import DONE_EVENT, RUNS, STREAM_EXAMPLE, RunOperation
from clasper.openapi.structs import example_of, nested_structs, ref, schema_of

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

_SOME_TRACE = "0194c8f0-7e1a-7000-8000-000000000001"
_TRACE_ID = {"type": "string", "format": "uuid"}
_TRACE_HEADER = {"X-Trace-Id": {"description": "The run's trace.", "schema": _TRACE_ID}}
_RETRY_HEADER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
_REPLAYED_HEADER = {
    "Idempotency-Replayed": {
        "description": "Present when the answer is that of an earlier request.",
        "schema": {"const": "true"},
    }
}
_HEADER_PARAMETERS = {
    "Idempotency-Key": "The same key and body within 24 hours return the stored answer instead of another run. The "
    "same key with another body, or of a run under way, is a conflict.",
    "X-Trace-Id": "A UUID becomes the run's trace id; any other text is kept as the label `correlation_id`.",
}
_ARGUMENT = re.compile(r"<(?:\w+:)?(\w+)>")


def add_runs(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Postprocessing hook: puts the runs before the other routes; an error body, a section and examples everywhere.

    Raises KeyError for a run route that is not described.
    """
    components = result.setdefault("components", {})
    operations = [operation for methods in RUNS.values() for operation in methods.values()]
    kinds = [kind for each in operations for kind in (each.body, each.response) if kind is not None]
    schemas = components.setdefault("schemas", {})
    schemas |= {kind.__name__: schema_of(kind) for kind in _with_nested([*kinds, DONE_EVENT, ErrorBody])}
    components["responses"] = {"Error": _error_response("The one error body, with a fitting status.")}
    components["parameters"] = {
        name: {"name": name, "in": "header", "description": text, "schema": {"type": "string", "maxLength": 255}}
        for name, text in _HEADER_PARAMETERS.items()
    }
    for path, methods in result["paths"].items():
        section = path.split("/")[1]
        for operation in methods.values():
            operation["responses"]["default"] = {"$ref": "#/components/responses/Error"}
            operation["tags"] = [_TAGS.get(section, section)]
    runs = {_templated(route): _path(route, consumer.methods) for route, consumer in run_routes}
    result["paths"] = {**runs, **result["paths"], **EVENTS_PATH}
    for content in _json_contents(result["paths"]):
        content["example"] = _example(content["schema"], schemas)
    for parameter in _parameters(result["paths"]):
        if parameter.get("name") == "trace_id" and parameter["in"] == "path":
            parameter["example"] = _SOME_TRACE
        elif examples := parameter.get("schema", {}).pop("examples", None):
            parameter["example"] = examples[0]
    return result


def _with_nested(kinds: Iterable[type[msgspec.Struct]]) -> dict[type[msgspec.Struct], None]:
    found: dict[type[msgspec.Struct], None] = {}
    waiting = list(kinds)
    while waiting:
        kind = waiting.pop()
        if kind not in found:
            found[kind] = None
            waiting += nested_structs(kind)
    return found


def _json_contents(paths: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The JSON of all requests and responses."""
    for operation in (operation for methods in paths.values() for operation in methods.values()):
        for part in (operation.get("requestBody", {}), *operation["responses"].values()):
            yield from (content for kind, content in part.get("content", {}).items() if kind == "application/json")


def _parameters(paths: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in paths.values():
        for operation in methods.values():
            yield from operation.get("parameters", ())


def _example(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Any:
    one = schema["oneOf"][0] if "oneOf" in schema else schema
    return schemas[one["$ref"].rpartition("/")[2]]["examples"][0]


def _templated(route: str) -> str:
    return "/" + _ARGUMENT.sub(r"{\1}", route)


def _path(route: str, methods: Iterable[str]) -> dict[str, Any]:
    return {method.lower(): _operation(route, RUNS[route][method]) for method in methods}


def _operation(route: str, described: RunOperation) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if described.response is not None:
        content["application/json"] = {"schema": ref(described.response)}
    if described.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}, "example": STREAM_EXAMPLE}
    replayable = described.body is not None and described.response is not None
    arguments = [
        {"name": name, "in": "path", "required": True, "schema": _TRACE_ID} for name in _ARGUMENT.findall(route)
    ]
    operation = {
        "operationId": described.operation_id,
        "summary": described.summary,
        "description": described.description,
        "tags": ["Runs"],
        "parameters": arguments,
        "security": [{"daemonKey": []}, {"tenantKey": []}],
        "responses": {
            "200": {
                "description": "The run ended with an answer, or its stream begins.",
                "headers": {**_TRACE_HEADER, **(_REPLAYED_HEADER if replayable else {})},
                "content": content,
            },
            **_run_errors(),
        },
    }
    if described.body is not None:
        operation["parameters"] = [
            *arguments,
            *({"$ref": f"#/components/parameters/{name}"} for name in _HEADER_PARAMETERS),
        ]
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": ref(described.body)}}}
    return operation


def _run_errors() -> dict[str, Any]:
    """The ways a run can fail, by status, with their codes."""
    codes: dict[int, list[str]] = {}
    for kind in _RUN_ERRORS:
        codes.setdefault(kind.status, []).append(f"`{kind.code}`: {kind.default_message}")
    headers = {429: _RETRY_HEADER}
    return {
        str(status): _error_response("\n\n".join(texts), {**_TRACE_HEADER, **headers.get(status, {})})
        for status, texts in sorted(codes.items())
    }


def _error_response(description: str, headers: Mapping[str, Any] | None = None) -> dict[str, Any]:
    content = {"application/json": {"schema": ref(ErrorBody), "example": example_of(ErrorBody)}}
    return {"description": description, "content": content, **({"headers": dict(headers)} if headers else {})}


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
