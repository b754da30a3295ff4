"""From what a provider or the network does wrong to one ProviderError; shared by all wire formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from clasper.core.usage import Usage
from clasper.gateways.http import UNREADABLE_JSON, parse_wait, retry_after
from clasper.gateways.llm.base import FailureKind, ProviderError

_SENTENCES: dict[FailureKind, str] = {
    "rate_limited": "The model provider {provider} is limiting our requests.",
    "unavailable": "The model provider {provider} is unavailable.",
    "timeout": "The model provider {provider} did not answer in time.",
    "connection": "The connection to the model provider {provider} failed.",
    "auth": "The model provider {provider} refused our credentials or account.",
    "unknown_model": "The model provider {provider} does not know the model.",
    "context_too_long": "The conversation does not fit the model's context window.",
    "invalid_request": "The model provider {provider} refused the request.",
    "bad_response": "The model provider {provider} sent a response that cannot be read.",
    "circuit_open": "The model provider {provider} has failed repeatedly and is not being called for now.",
    "at_capacity": "Too many calls to the model provider {provider} are in progress.",
}

_KIND_OF_STATUS: dict[int, FailureKind] = {
    401: "auth",
    402: "auth",
    403: "auth",
    408: "timeout",
    409: "unavailable",
    413: "context_too_long",
    425: "unavailable",
    429: "rate_limited",
    504: "timeout",
}

_KIND_OF_CODE: dict[str, FailureKind] = {
    "context_length_exceeded": "context_too_long",
    "exceed_context_size_error": "context_too_long",
    "string_above_max_length": "context_too_long",
    "request_too_large": "context_too_long",
    "model_not_found": "unknown_model",
    "model_not_available": "unknown_model",
    "invalid_model": "unknown_model",
    "invalid_api_key": "auth",
    "authentication_error": "auth",
    "permission_error": "auth",
    "billing_error": "auth",
    "insufficient_quota": "rate_limited",
    "rate_limit_exceeded": "rate_limited",
    "rate_limit_error": "rate_limited",
    "server_error": "unavailable",
    "overloaded_error": "unavailable",
    "timeout": "timeout",
    "timeout_error": "timeout",
    "UNAUTHENTICATED": "auth",
    "PERMISSION_DENIED": "auth",
    "NOT_FOUND": "unknown_model",
    "RESOURCE_EXHAUSTED": "rate_limited",
    "UNAVAILABLE": "unavailable",
    "INTERNAL": "unavailable",
    "UNKNOWN": "unavailable",
    "ABORTED": "unavailable",
    "CANCELLED": "unavailable",
    "DEADLINE_EXCEEDED": "timeout",
    "tool_use_failed": "bad_response",
    "json_validate_failed": "bad_response",
}
"""Codes that providers put into their error objects. They take precedence over the status; an equal type does not."""

_PHRASES: tuple[tuple[str, FailureKind], ...] = (
    ("context length", "context_too_long"),
    ("context window", "context_too_long"),
    ("context size", "context_too_long"),
    ("prompt is too long", "context_too_long"),
    ("exceed context limit", "context_too_long"),
    ("not a valid model", "unknown_model"),
    ("invalid model", "unknown_model"),
    ("unexpected model name", "unknown_model"),
    ("api key not valid", "auth"),
    ("credit balance is too low", "auth"),
    ("pass a valid api key", "auth"),
    ("api key expired", "auth"),
    ("location is not supported", "auth"),
    ("exceeds the maximum number of tokens allowed", "context_too_long"),
)
"""What providers without codes write in a 400."""


@dataclass(frozen=True, slots=True)
class ErrorObject:
    """The error in a body, whatever its dialect.

    `status` is a numeric code found in the body, `retry_after` the wait (seconds) that the body asks for.
    """

    message: str = ""
    code: str = ""
    type: str = ""
    status: int | None = None
    retry_after: float | None = None


def failure(
    kind: FailureKind,
    provider: str,
    *,
    status: int | None = None,
    retry_after: float | None = None,
    detail: str = "",
    usage: Usage | None = None,
) -> ProviderError:
    """The error of this kind, with a message fit for callers."""
    sentence = _SENTENCES[kind].format(provider=provider)
    return ProviderError(kind, sentence, status=status, retry_after=retry_after, detail=detail, usage=usage)


def network_failure(error: Exception, provider: str) -> ProviderError:
    """What an exception of the HTTP client means: our deadline, an unreadable response, or a broken connection."""
    kind: FailureKind = "connection"
    if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
        kind = "timeout"
    elif isinstance(error, aiohttp.ClientResponseError):
        kind = "bad_response"
    return failure(kind, provider, detail=type(error).__name__)


def status_failure(status: int, headers: Mapping[str, str], body: bytes, provider: str) -> ProviderError:
    """What a response other than 200 means."""
    found = read_error(body)
    if found is None:
        found = ErrorObject(message=body.decode("utf-8", "replace"))
    return body_failure(found, provider, status=status, retry_after=retry_after(headers))


def body_failure(
    found: ErrorObject,
    provider: str,
    *,
    status: int | None = None,
    retry_after: float | None = None,
    usage: Usage | None = None,
) -> ProviderError:
    """What an error object means; `status` is that of the response it came in, unless that is 200."""
    status = status or found.status
    kind = _kind(found, status)
    retry_after = found.retry_after if retry_after is None else retry_after
    detail = ": ".join(part for part in (found.code or found.type, found.message) if part)
    return failure(kind, provider, status=status, retry_after=retry_after, detail=detail, usage=usage)


def read_error(body: bytes) -> ErrorObject | None:
    """The error object of a JSON body, None if it contains none."""
    try:
        value = msgspec.json.decode(body)
    except UNREADABLE_JSON:
        return None
    return error_object(value)


def error_object(value: Any) -> ErrorObject | None:
    """The error in a decoded value: `{"error": {…}}`, `{"error": text}`, `{"object": "error", …}`, or a list of one."""
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return None
    inner = value.get("error")
    if isinstance(inner, str) and inner:
        return ErrorObject(message=inner)
    if not isinstance(inner, dict):
        inner = value if "message" in value or "detail" in value else None
    return None if inner is None else _error_of(inner)


def _kind(found: ErrorObject, status: int | None) -> FailureKind:
    if found.code in _KIND_OF_CODE:
        return _KIND_OF_CODE[found.code]
    if status in _KIND_OF_STATUS:
        return _KIND_OF_STATUS[status]
    if status is not None and status >= 500:
        return "unavailable"
    message = found.message.lower()
    if status == 404 or found.type == "not_found_error":
        return "unknown_model" if "model" in message else "invalid_request"
    by_phrase = next((kind for phrase, kind in _PHRASES if phrase in message), None)
    if by_phrase is not None:
        return by_phrase
    if status is not None or found.type == "invalid_request_error":
        return "invalid_request"
    return _KIND_OF_CODE.get(found.type, "unavailable")


def _error_of(inner: Mapping[str, Any]) -> ErrorObject:
    code = inner.get("code")
    name = inner.get("status")
    # Google's code is the HTTP status and its status the name of the code.
    text = code if isinstance(code, str) else name if isinstance(name, str) else ""
    number = code if isinstance(code, int) else int(text) if text.isdecimal() and len(text) == 3 else None
    message = inner.get("message") or inner.get("detail") or ""
    kind = inner.get("type")
    return ErrorObject(
        message=message if isinstance(message, str) else str(message),
        code=text,
        type=kind if isinstance(kind, str) else "",
        status=number if number is not None and 400 <= number < 600 else None,
        retry_after=_retry_delay(inner.get("details")),
    )


def _retry_delay(details: Any) -> float | None:
    """The wait of Google's `RetryInfo`, such as `{"retryDelay": "17s"}`; None if absent or unreadable."""
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and (seconds := parse_wait(delay.removesuffix("s"))) is not None:
            return seconds
    return None
