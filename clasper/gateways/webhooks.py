"""Webhooks: what is sent when a run has ended, how it is signed, and one attempt at delivering it.

The outbox decides when to try again; `WebhookFailed.retryable` says whether another attempt may help.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import aiohttp
import msgspec
from multidict import CIMultiDict

from clasper.core.clock import iso
from clasper.gateways.http import is_retryable
from clasper.gateways.ssrf import Allowlist, UrlRefused, check_url, guarded_session

USER_AGENT = "Clasper-Webhook/1.0"
TIMEOUT_SECONDS = 10.0
MAX_HEADERS = 32
MAX_HEADER_CHARS = 4096

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_RESERVED = frozenset(
    ("connection", "expect", "host", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection")
) | {"te", "trailer", "transfer-encoding", "upgrade"}
_RESERVED_PREFIXES = ("content-", "x-clasper-")


class WebhookFailed(Exception):
    """A delivery that did not arrive. `status` is the receiver's, 0 without a response."""

    def __init__(self, reason: str, *, retryable: bool, status: int = 0) -> None:
        self.reason = reason
        self.retryable = retryable
        self.status = status
        super().__init__(reason)


def build_payload(
    *,
    now: datetime,
    trace_id: str,
    task_id: str | None,
    user_id: str,
    role: str,
    response: str,
    usage: Mapping[str, Any],
    cost: Mapping[str, Any],
    error: str = "",
    code: str = "",
) -> dict[str, Any]:
    """The body of a webhook: `agent.completed`, or with an error `agent.error` (empty response, `error` and `code`).

    Texts are sent unchanged: redact them first.
    """
    payload: dict[str, Any] = {
        "event": "agent.error" if error else "agent.completed",
        "timestamp": iso(now),
        "trace_id": trace_id,
        "task_id": task_id,
        "user_id": user_id,
        "role": role,
        "response": "" if error else response,
        "usage": dict(usage),
        "cost": dict(cost),
    }
    if error:
        payload |= {"error": error, "code": code}
    return payload


def encode_payload(payload: Mapping[str, Any]) -> bytes:
    """The exact bytes that are stored, signed and sent."""
    return msgspec.json.encode(payload)


def sign(secret: str, body: bytes) -> str:
    """Lower-case hex HMAC-SHA256 of the body, the value of `X-Clasper-Signature`."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def header_problems(headers: Mapping[str, str]) -> list[str]:
    """Everything wrong with a caller's headers, as sentences; empty when they may be sent."""
    problems = [f"At most {MAX_HEADERS} headers are accepted."] if len(headers) > MAX_HEADERS else []
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or len(name) > MAX_HEADER_CHARS:
            problems.append(f"{name[:64]!r} is not a header name.")
        elif name.lower() in _RESERVED or name.lower().startswith(_RESERVED_PREFIXES):
            problems.append(f"The header {name} is set by Clasper and must not be given.")
        elif len(value) > MAX_HEADER_CHARS or not (value.isascii() and value.isprintable()):
            problems.append(
                f"The value of the header {name} must be at most {MAX_HEADER_CHARS} printable ASCII characters."
            )
    return problems


async def deliver(
    url: str,
    body: bytes,
    *,
    secret: str = "",
    headers: Mapping[str, str] | None = None,
    delivery_id: str,
    now: datetime,
    allowed: Allowlist | None = None,
) -> None:
    """One attempt to post `body` to `url`, within ten seconds and without following redirects.

    `delivery_id` stays the same over all attempts of one webhook. Raises WebhookFailed unless the response is 2xx.
    """
    if header_problems(headers or {}):
        raise WebhookFailed("The webhook's headers are not acceptable.", retryable=False)
    try:
        check_url(url, allowed)
        async with (
            guarded_session(allowed, timeout=TIMEOUT_SECONDS) as session,
            session.post(
                url,
                data=body,
                headers=_headers(body, secret, headers or {}, delivery_id, now),
                allow_redirects=False,
            ) as response,
        ):
            status = response.status
    except UrlRefused as error:
        raise WebhookFailed(error.reason, retryable=False) from error
    except aiohttp.InvalidURL as error:
        raise WebhookFailed("The URL is not valid.", retryable=False) from error
    except TimeoutError as error:
        raise WebhookFailed(f"No answer within {TIMEOUT_SECONDS:.0f} seconds.", retryable=True) from error
    except (aiohttp.ClientError, OSError) as error:
        raise WebhookFailed("The receiver could not be reached.", retryable=True) from error
    if not 200 <= status < 300:
        raise WebhookFailed(f"The receiver answered {status}.", retryable=is_retryable(status), status=status)


def _headers(body: bytes, secret: str, given: Mapping[str, str], delivery_id: str, now: datetime) -> CIMultiDict[str]:
    headers = CIMultiDict({"User-Agent": USER_AGENT})
    headers.update(given)
    headers["Content-Type"] = "application/json"
    headers["X-Clasper-Delivery"] = delivery_id
    headers["X-Clasper-Timestamp"] = iso(now)
    if secret:
        headers["X-Clasper-Signature"] = sign(secret, body)
    return headers
