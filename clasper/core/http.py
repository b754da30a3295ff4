"""HTTP in one shape: the error body, JSON in and out of ordinary views, and their exception handler.

The error body is `{"error": text, "code": snake_case, "details": {…}}`, with `trace_id` where a run ended. Validation
adds `details.fieldErrors` and `details.formErrors`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from django.conf import settings
from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.db import DatabaseError
from django.http import Http404, HttpRequest, HttpResponse
from drf_spectacular.utils import extend_schema
from msgspec import UNSET, UnsetType
from rest_framework import exceptions
from rest_framework.negotiation import BaseContentNegotiation, DefaultContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.response import Response

from clasper.core.errors import (
    BodyTooLarge,
    ClasperError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PermissionDenied,
    RateLimited,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from clasper.core.schemas import Input, Query, Resource, about, render

F = TypeVar("F", bound=Callable[..., Any])

logger = logging.getLogger("clasper.http")

MAX_JSON_DEPTH = 64
"""Deeper bodies are refused: no document of the API is nearly as deep, and recursion over them is an attack."""

MALFORMED = "The request is malformed, or its host is not served here."


class ErrorBody(Resource, frozen=True, kw_only=True):
    """The one error body."""

    error: Annotated[str, about("A sentence for people.", example="Invalid payload")]
    code: Annotated[str, about("For programs.", example="invalid_request")]
    details: Annotated[
        dict[str, Any],
        about(
            "Particulars. Validation has `fieldErrors` and `formErrors`, with all errors at once.",
            example={"fieldErrors": {"limit": ["This field is required."]}, "formErrors": []},
        ),
    ]
    trace_id: Annotated[str | UnsetType, about("The run that ended with this error, if any.")] = UNSET


def error_body(error: ClasperError) -> ErrorBody:
    """The error as callers see it."""
    return ErrorBody(
        error=error.message, code=error.error_code, details=error.details, trace_id=error.trace_id or UNSET
    )


def error_headers(error: ClasperError) -> dict[str, str]:
    """Headers that go with the error: `Retry-After` (whole seconds), `WWW-Authenticate`, `X-Trace-Id`."""
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if error.trace_id:
        headers["X-Trace-Id"] = error.trace_id
    return headers


def decode_json(body: bytes) -> Any:
    """The JSON value of a body. Raises InvalidRequest for anything that is not strict JSON, NUL characters included.

    PostgreSQL cannot store U+0000 in text, so it is refused here with a clear message instead of failing later.
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest("The body is not valid JSON.", code="invalid_json") from error
    if b"\\u0000" in body and _holds(value, "\x00"):
        raise InvalidRequest("The body contains a NUL character (U+0000), which is not allowed.", code="invalid_json")
    if body.count(b"[") + body.count(b"{") > MAX_JSON_DEPTH and _depth(value) > MAX_JSON_DEPTH:
        raise InvalidRequest(f"The body is nested more than {MAX_JSON_DEPTH} levels deep.", code="invalid_json")
    return value


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= MAX_JSON_DEPTH:
        depth += 1
        level = [child for each in level for child in _children(each)]
    return depth


def _holds(value: Any, character: str) -> bool:
    stack = [value]
    while stack:
        each = stack.pop()
        if isinstance(each, str) and character in each:
            return True
        if isinstance(each, dict) and any(character in key for key in each):
            return True
        stack.extend(_children(each))
    return False


def operation(
    operation_id: str, *, query: type[Query] | None = None, body: type[Input] | None = None, response: Any
) -> Callable[[F], F]:
    """Describes a view's method in the OpenAPI document by the Structs that it takes and shows.

    `response` is a Struct, or maps statuses, or pairs of status and media type, to what they show.
    """
    parameters: list[Any] = [] if query is None else [query]
    return extend_schema(operation_id=operation_id, parameters=parameters, request=body, responses=response)


class JSONParser(BaseParser):
    """Strict JSON within the body limit; an absent body is an empty object."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        limit = max_body_bytes()
        body = stream.read(limit + 1)
        if len(body) > limit:
            raise BodyTooLarge()
        if not body:
            return {}
        value = decode_json(body)
        if not isinstance(value, dict):
            raise InvalidRequest(form_errors=["Expected a JSON object."])
        return value


class JSONRenderer(BaseRenderer):
    """JSON by msgspec, Structs as `clasper.core.schemas.render` shows them: exact floats, UTF-8, no indentation."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:
        return b"" if data is None else msgspec.json.encode(render(data))


class OneFormat(BaseContentNegotiation):
    """An endpoint answers in its one format, whatever a browser or a tool says it prefers."""

    def select_parser(self, request: Any, parsers: Any) -> Any:
        return DefaultContentNegotiation().select_parser(request, parsers)

    def select_renderer(self, request: Any, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


def exception_handler(error: Exception, context: Mapping[str, Any]) -> Response:
    """DRF's hook: any exception of a view becomes the one error body; foreign exceptions are logged and hidden."""
    public = public_error(error)
    return Response(error_body(public), status=public.status, headers=error_headers(public))


def public_error(error: BaseException) -> ClasperError:
    """The error a caller may see for any exception. Foreign ones are logged here and become 500 or 503."""
    if isinstance(error, ClasperError):
        return error
    if isinstance(error, exceptions.APIException):
        return _framework_error(error)
    if isinstance(error, Http404):
        return NotFound()
    if isinstance(error, DjangoPermissionDenied):
        return PermissionDenied()
    if isinstance(error, RequestDataTooBig):
        return BodyTooLarge()
    if isinstance(error, SuspiciousOperation):
        return InvalidRequest(MALFORMED)
    if isinstance(error, DatabaseError):
        logger.error("database error", exc_info=error)
        return Unavailable("The database is not available; try again.")
    logger.error("unhandled error", exc_info=error)
    return ClasperError()


def _framework_error(error: exceptions.APIException) -> ClasperError:
    if isinstance(error, exceptions.ParseError):
        return InvalidRequest("The body is not valid JSON.", code="invalid_json")
    if isinstance(error, exceptions.UnsupportedMediaType):
        return UnsupportedMediaType()
    if isinstance(error, exceptions.MethodNotAllowed):
        return MethodNotAllowed()
    if isinstance(error, exceptions.NotFound):
        return NotFound()
    if isinstance(error, exceptions.Throttled):
        return RateLimited(retry_after=getattr(error, "wait", None))
    if isinstance(error, exceptions.NotAuthenticated | exceptions.AuthenticationFailed):
        return Unauthenticated()
    if isinstance(error, exceptions.PermissionDenied):
        return PermissionDenied()
    logger.error("unmapped framework error", exc_info=error)
    return ClasperError()


def error_response(error: ClasperError) -> HttpResponse:
    """The error body as a plain Django response, for handlers outside DRF."""
    return HttpResponse(
        msgspec.json.encode(error_body(error)),
        status=error.status,
        content_type="application/json",
        headers=error_headers(error),
    )


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler400: a host that is not allowed, or a request that makes no sense."""
    return error_response(InvalidRequest(MALFORMED))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler404."""
    return error_response(NotFound("No such route."))


def server_error(request: HttpRequest) -> HttpResponse:
    """Django's handler500."""
    return error_response(ClasperError())


def max_body_bytes() -> int:
    return int(settings.CLASPER_MAX_BODY_BYTES)
