"""Every error that may reach a caller, as one tree.

ClasperError
├── InvalidRequest 400          fields and forms that are wrong, all at once
├── ContextTooLong 400          the conversation cannot fit the model's window
├── UnknownModel 400            no such model at the provider
├── Unauthenticated 401         unknown, expired or revoked credential
├── BudgetExceeded 402          the tenant's hard limit leaves no room for the run
├── UnpricedModel 402           a budget is set and the model has no known price
├── PermissionDenied 403        a valid credential without the permission
├── InvalidDaemonKey 403        missing or wrong X-Agent-Daemon-Key
├── NotFound 404                also for another tenant's object
├── MethodNotAllowed 405        the route exists and does not take this method
├── Conflict 409                already there, or changed by someone else
│   ├── IdempotencyMismatch     same Idempotency-Key, other body
│   └── InProgress              same Idempotency-Key, run still going
├── BodyTooLarge 413
├── UnsupportedMediaType 415
├── RateLimited 429             carries retry_after
├── ProviderFailed 502          the model's provider failed or returned nothing usable
├── BackendFailed 502           the control plane failed
├── Unavailable 503             a dependency is missing or down; nothing was lost
└── RunTimeout 504              the run's total deadline passed

Services raise these; `core.http` turns them into the one error body. The message is for callers: it never contains SQL,
file paths, secrets or the text of foreign exceptions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class ClasperError(Exception):
    """Base of all errors shown to callers.

    `message` is a sentence for people, `details` a JSON object, `trace_id` the run that the error ended, if any.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    default_message: ClassVar[str] = "Something went wrong on our side."

    def __init__(
        self,
        message: str = "",
        *,
        code: str = "",
        details: Mapping[str, Any] | None = None,
        trace_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        self.message = message or self.default_message
        self.error_code = code or self.code
        self.details: dict[str, Any] = dict(details or {})
        self.trace_id = trace_id
        self.retry_after = retry_after
        super().__init__(self.message)


class InvalidRequest(ClasperError):
    """The request is malformed. `field_errors` are by field, `form_errors` are about the whole body."""

    status = 400
    code = "invalid_request"
    default_message = "Invalid payload"

    def __init__(
        self,
        message: str = "",
        *,
        field_errors: Mapping[str, Sequence[str]] | None = None,
        form_errors: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(message, **kwargs)
        if field_errors or form_errors:
            self.details["fieldErrors"] = {name: list(texts) for name, texts in (field_errors or {}).items()}
            self.details["formErrors"] = list(form_errors)


class ContextTooLong(ClasperError):
    """The conversation is larger than the model's context window."""

    status = 400
    code = "context_too_long"
    default_message = "The conversation does not fit the model's context window."


class UnknownModel(ClasperError):
    """The provider does not know the model."""

    status = 400
    code = "unknown_model"
    default_message = "The model is unknown to its provider."


class Unauthenticated(ClasperError):
    """The credential is unknown, expired or revoked."""

    status = 401
    code = "invalid_token"
    default_message = "Invalid, expired or revoked credential."


class BudgetExceeded(ClasperError):
    """The tenant's budget leaves no room for this run."""

    status = 402
    code = "budget_exceeded"
    default_message = "The next model call would exceed the tenant's budget."


class UnpricedModel(ClasperError):
    """The tenant has a budget and the model's price is unknown, so its cost cannot be bounded."""

    status = 402
    code = "unpriced_model"
    default_message = "The model has no known price, so a run under a budget is refused."


class PermissionDenied(ClasperError):
    """The credential is valid and lacks the permission."""

    status = 403
    code = "permission_denied"
    default_message = "Not permitted."


class InvalidDaemonKey(ClasperError):
    """X-Agent-Daemon-Key is missing or wrong."""

    status = 403
    code = "invalid_daemon_key"
    default_message = "Invalid daemon key"


class NotFound(ClasperError):
    """No such object, or it belongs to another tenant."""

    status = 404
    code = "not_found"
    default_message = "Not found."


class MethodNotAllowed(ClasperError):
    """The route exists and does not take this method."""

    status = 405
    code = "method_not_allowed"
    default_message = "Method not allowed."


class Conflict(ClasperError):
    """The object exists already or was changed by someone else."""

    status = 409
    code = "conflict"
    default_message = "Conflict with the current state."


class IdempotencyMismatch(Conflict):
    """The Idempotency-Key was used before with another body."""

    code = "idempotency_mismatch"
    default_message = "This Idempotency-Key was used with a different request."


class InProgress(Conflict):
    """The run of this Idempotency-Key has not ended yet."""

    code = "in_progress"
    default_message = "The run with this Idempotency-Key is still in progress."


class BodyTooLarge(ClasperError):
    """The body is over CLASPER_MAX_BODY_BYTES."""

    status = 413
    code = "body_too_large"
    default_message = "The request body is too large."


class UnsupportedMediaType(ClasperError):
    """The body is not JSON."""

    status = 415
    code = "unsupported_media_type"
    default_message = "Send JSON with Content-Type: application/json."


class RateLimited(ClasperError):
    """Too many requests; `retry_after` says how many seconds to wait."""

    status = 429
    code = "rate_limited"
    default_message = "Too many requests."


class ProviderFailed(ClasperError):
    """The model's provider failed, refused, or returned nothing usable as an answer."""

    status = 502
    code = "provider_error"
    default_message = "The model provider failed."


class BackendFailed(ClasperError):
    """The control plane failed; what must reach it is retried from the outbox."""

    status = 502
    code = "backend_error"
    default_message = "The control plane failed."


class Unavailable(ClasperError):
    """A dependency is missing or down."""

    status = 503
    code = "unavailable"
    default_message = "Temporarily unavailable."


class RunTimeout(ClasperError):
    """The run's total deadline passed."""

    status = 504
    code = "timeout"
    default_message = "The run took too long."
