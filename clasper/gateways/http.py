"""HTTP to the outside: one client session for each event loop, deadlines, and how responses are read.

The session is for hosts that the operator has configured. URLs given by callers (webhooks, compatibility checks) never
go through it: `ssrf.guarded_session` is for them. What a response means is decided by the gateway that asked.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import msgspec
from aiohttp import ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

from clasper import __version__
from clasper.core.clock import parse_iso, utc_now
from clasper.core.per_loop import PerLoop

CONNECT_SECONDS = 10.0
"""Name resolution, TCP and TLS together; a host that needs longer is down."""

UNREADABLE_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a JSON decoder raises on bytes it cannot read."""

_KEEPALIVE_SECONDS = 30.0
_DEFAULT_DEADLINE_SECONDS = 60.0
_MAX_RETRY_AFTER = 24 * 3600.0
_RETRYABLE = frozenset({408, 425, 429})


def deadline(seconds: float) -> ClientTimeout:
    """A total deadline for one exchange: connecting, sending, and reading to the end of the response."""
    # aiohttp would round deadlines from five seconds on up to a whole second.
    return ClientTimeout(total=seconds, connect=CONNECT_SECONDS, ceil_threshold=float("inf"))


def _open_session() -> ClientSession:
    return ClientSession(
        # The engine bounds its own concurrency; a limit here would only queue runs unseen.
        connector=TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS),
        cookie_jar=DummyCookieJar(),
        headers={"User-Agent": f"Clasper/{__version__}"},
        timeout=deadline(_DEFAULT_DEADLINE_SECONDS),
        trust_env=False,
    )


_sessions = PerLoop(_open_session)


def session() -> ClientSession:
    """The session of the running event loop, opened on first use.

    Whoever owns the loop calls `close_session` before it ends. Raises RuntimeError outside an event loop.
    """
    return _sessions.current()


async def close_session() -> None:
    """Closes the running loop's session and its connections; without one it does nothing."""
    found = _sessions.pop(asyncio.get_running_loop(), None)
    if found is not None:
        await found.close()


async def read_body(response: ClientResponse, limit: int) -> bytes | None:
    """The rest of the body. One longer than `limit` bytes closes the connection and returns None.

    Raises ClientError, TimeoutError or OSError when the connection breaks.
    """
    chunks: list[bytes] = []
    size = 0
    while chunk := await response.content.readany():
        size += len(chunk)
        if size > limit:
            response.close()
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def is_retryable(status: int) -> bool:
    """Whether the same request may succeed later."""
    return status >= 500 or status in _RETRYABLE


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that `retry-after-ms` or `Retry-After` (seconds or an HTTP date) asks to wait, at most a day.

    None when neither is there or can be read.
    """
    seconds = parse_wait(headers.get("retry-after-ms"), per_second=1000)
    text = headers.get("Retry-After")
    if seconds is not None or text is None:
        return seconds
    seconds = parse_wait(text)
    return _seconds_until(text) if seconds is None else seconds


def parse_wait(text: str | None, *, per_second: int = 1) -> float | None:
    """The seconds that a number means of which `per_second` make one, at most a day; None when it is not a wait."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return min(number / per_second, _MAX_RETRY_AFTER) if math.isfinite(number) and number >= 0 else None


def _seconds_until(date: str) -> float | None:
    try:
        instant = parse_iso(parsedate_to_datetime(date).isoformat())
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, (instant - utc_now()).total_seconds()), _MAX_RETRY_AFTER)
