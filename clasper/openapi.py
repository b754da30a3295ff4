"""The OpenAPI document and its page: what drf-spectacular finds in Django, the runs, and the one error body.

Runs are no Django views, so `add_runs` describes them from the Structs that check their bodies. A new route of
`apps.agents.urls.run_routes` must be described in `_RUNS`.
"""

from __future__ import annotations

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

from apps.agents.domain.requests import SendBody
from apps.agents.urls import run_routes
from clasper.core import errors
from clasper.core.http import JSONRenderer

_REF = "#/components/schemas/{name}"
_EVENTS = "text/event-stream"

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

FIELDS: Mapping[str, Mapping[str, str]] = {
    "SendBody": {
        "user_id": "Whom the run is for; also its tenant, unless the credential or `tenant_id` names one.",
        "session_key": "`user:{user_id}:{role}`. The role is the agent's name and picks its soul.",
        "message": "What the user says.",
        "messages": "Earlier turns of the conversation, oldest first.",
        "task_id": "An existing task of the control plane.",
        "task_title": "Without `task_id`: the title of the task to find or create. Default: CLASPER_DEFAULT_TASK.",
        "task_description": "Description of a task that is created.",
        "task_metadata": "Metadata of a task that is created.",
        "metadata": "Options of this request.",
        "webhook": "Where to report the end of the run.",
        "stream": "On `send`: answer with server-sent events.",
        "tenant_id": "The platform key may name any tenant, a tenant's key only its own.",
        "workspace_id": "Default: `metadata.workspace_id`, then `default`.",
        "environment": "Default: `metadata.environment`, then the workspace's default environment.",
    },
    "Turn": {"role": "Who said it.", "content": "What was said."},
    "Webhook": {
        "url": "http or https; private, loopback and metadata addresses only if the operator lists them.",
        "secret": "Signs the body: `X-Clasper-Signature` is its lower-case hex HMAC-SHA256.",
        "headers": "Headers to send along.",
    },
    "Options": {
        "system_prompt": "Replaces the workspace's prompt; needs the scope `prompt:override`.",
        "kickoff_plan": "Also write the answer as a plan document.",
        "kickoff_note": "Steers a kickoff and heads its plan.",
        "plan_title": "Title of the plan document.",
        "timezone": "IANA name, for the time in the prompt.",
        "model": "The model to ask, as `provider/model` or `model`.",
        "workspace_id": "As the field of the same name in the body.",
        "environment": "As the field of the same name in the body.",
        "skip_backend": "Write nothing to the control plane; then no task is needed.",
        "skipSmartContext": "No smart selection of skills and memory for this request.",
        "forceIncludeSkills": "Skills that are in the prompt in any case.",
        "smart_context_max_skills": "Most skills that smart selection takes.",
        "smart_context_max_memory": "Most memory chunks that smart selection takes.",
        "smart_context_token_budget": "Most tokens that smart selection takes; 0 is no limit.",
    },
}
"""What the fields of a run's body mean; `requests.py` says what they may hold."""

_TEXT, _COUNT, _DOLLARS = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "number", "minimum": 0}


def _object(properties: Mapping[str, Any], *, optional: Sequence[str] = (), description: str = "") -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    found: dict[str, Any] = {"type": "object", "properties": dict(properties), "required": required}
    return {"description": description, **found} if description else found


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(name=name)}


_ANSWER = {
    "task_id": {"type": ["string", "null"], "description": "Null when `skip_backend` left no task."},
    "trace_id": {"type": "string", "format": "uuid"},
    "response": {"type": "string", "description": "The agent's answer."},
    "usage": _ref("RunUsage"),
    "cost": _ref("RunCost"),
    "context_warning": {"type": "string", "description": "Present over CLASPER_CONTEXT_WARNING_THRESHOLD."},
    "skipped_backend": {"type": "boolean", "description": "Present when nothing was written to the control plane."},
}
_RARE = ("context_warning", "skipped_backend")

_SCHEMAS: dict[str, Any] = {
    "Error": _object(
        {
            "error": {"type": "string", "description": "A sentence for people."},
            "code": {"type": "string", "description": "For programs.", "examples": ["invalid_request"]},
            "details": {
                "type": "object",
                "description": "Particulars. Validation gives `fieldErrors` and `formErrors`, all faults at once.",
                "additionalProperties": True,
            },
            "trace_id": {"type": "string", "description": "The run that ended so, if any."},
        },
        optional=("trace_id",),
        description="The one error body.",
    ),
    "RunUsage": _object(
        {"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT},
        description="Tokens of all model calls of the run; cached ones count as prompt tokens.",
    ),
    "RunCost": _object(
        {
            "model": _TEXT,
            "inputTokens": _COUNT,
            "outputTokens": _COUNT,
            "inputCost": _DOLLARS,
            "outputCost": _DOLLARS,
            "totalCost": _DOLLARS,
            "currency": {"const": "USD"},
        },
        description="Exact to the nano-dollar; inputCost and outputCost add up to totalCost.",
    ),
    "RunAnswer": _object({"status": {"const": "ok"}, **_ANSWER}, optional=_RARE),
    "RunDone": _object(
        {"type": {"const": "done"}, **_ANSWER}, optional=_RARE, description="The data of a stream's `done` event."
    ),
}

_TRACE_HEADER = {"X-Trace-Id": {"description": "The run's trace.", "schema": {"type": "string", "format": "uuid"}}}
_RETRY_HEADER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
_REPLAYED_HEADER = {
    "Idempotency-Replayed": {
        "description": "Present when the answer is that of an earlier request.",
        "schema": {"const": "true"},
    }
}
_PARAMETERS = {
    "X-Trace-Id": {
        "name": "X-Trace-Id",
        "in": "header",
        "description": "A UUID becomes the run's trace id; any other text is kept as the label `correlation_id`.",
        "schema": {"type": "string", "maxLength": 255},
    },
    "Idempotency-Key": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same key and body within 24 hours give the stored answer instead of another run. "
        "The same key with another body, or of a run under way, is a conflict. Streams ignore it.",
        "schema": {"type": "string", "maxLength": 255},
    },
}

_STREAM = (
    "Server-sent events. `start` opens; `chunk` carries text in `data`; `tool_call` and `tool_result` name a tool, its "
    "status and duration; the last is `done` (schema RunDone) or `error` (the error body). Each event's `data` is one "
    "line of JSON whose `type` is the event's name. A comment is sent every 15 seconds of silence."
)
_STREAM_EXAMPLE = (
    'event: start\ndata: {"type":"start"}\n\n'
    'event: chunk\ndata: {"type":"chunk","data":"Hello"}\n\n'
    'event: done\ndata: {"type":"done","trace_id":"…","task_id":"…","response":"Hello","usage":{…},"cost":{…}}\n\n'
)
_EVENT_STREAM = {_EVENTS: {"schema": {"type": "string"}, "example": _STREAM_EXAMPLE}}
_JSON_ANSWER = {"application/json": {"schema": _ref("RunAnswer")}}

_RUNS: Mapping[str, Mapping[str, Any]] = {
    "api/agents/send": {
        "operationId": "agents_send",
        "summary": "Run an agent",
        "description": "Runs the agent to its answer, which is also posted to the control plane's task. With "
        f"`stream: true` the answer comes as in `/api/agents/stream`. {_STREAM}",
        "content": {**_JSON_ANSWER, **_EVENT_STREAM},
        "parameters": ("Idempotency-Key", "X-Trace-Id"),
    },
    "api/agents/stream": {
        "operationId": "agents_stream",
        "summary": "Run an agent and stream its answer",
        "description": f"The same run as `/api/agents/send`. Leaving cancels it. {_STREAM}",
        "content": _EVENT_STREAM,
        "parameters": ("X-Trace-Id",),
    },
}


_TAGS = {
    "traces": "Traces",
    "audit": "Governance",
    "budget": "Governance",
    "usage": "Governance",
    "skills": "Workspace",
    "context": "Workspace",
    "boot": "Workspace",
    "health": "Server",
    "api": "Server",
}
"""The page's sections, by the first word of the route."""


def add_runs(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Postprocessing hook: puts the runs before the other routes, the error body and a section into every operation.

    Raises KeyError for a run route that is not described here.
    """
    components = result.setdefault("components", {})
    components.setdefault("schemas", {}).update(_schemas())
    components["responses"] = {"Error": _error_response("The one error body, with a fitting status.")}
    components["parameters"] = _PARAMETERS
    for path, methods in result["paths"].items():
        section = path.split("/")[1]
        for operation in methods.values():
            operation["responses"]["default"] = {"$ref": "#/components/responses/Error"}
            operation["tags"] = [_TAGS.get(section, section)]
    runs = {f"/{route}": _path(route, consumer.methods) for route, consumer in run_routes}
    result["paths"] = {**runs, **result["paths"]}
    return result


def _schemas() -> dict[str, Any]:
    _, found = msgspec.json.schema_components((SendBody,), ref_template=_REF)
    for name, texts in FIELDS.items():
        for field, text in texts.items():
            found[name]["properties"][field]["description"] = text
    return {**found, **_SCHEMAS}


def _path(route: str, methods: Sequence[str]) -> dict[str, Any]:
    described = _RUNS[route]
    answer = {
        "description": "The run ended with an answer, or its stream begins.",
        "headers": {**_TRACE_HEADER, **(_REPLAYED_HEADER if "Idempotency-Key" in described["parameters"] else {})},
        "content": described["content"],
    }
    operation = {
        "operationId": described["operationId"],
        "summary": described["summary"],
        "description": described["description"],
        "tags": ["Runs"],
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in described["parameters"]],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("SendBody")}}},
        "security": [{"daemonKey": []}, {"tenantKey": []}],
        "responses": {"200": answer, **_run_errors()},
    }
    return {method.lower(): operation for method in methods}


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
    found = {"description": description, "content": {"application/json": {"schema": _ref("Error")}}}
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
    http_method_names = ["get", "head"]

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        """The OpenAPI document."""
        return HttpResponse(document(), content_type="application/json")


class DocsView(SpectacularSwaggerSplitView):
    """`GET /api/docs`: the document as a page. Its scripts and styles are files served from here."""

    public = True
    http_method_names = ["get", "head"]

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """A refusal is the one error body here, too; the page's own renderer would write HTML."""
        if getattr(response, "exception", False):
            request.accepted_renderer, request.accepted_media_type = JSONRenderer(), JSONRenderer.media_type
        return super().finalize_response(request, response, *args, **kwargs)
