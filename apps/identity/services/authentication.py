"""Who is calling: credentials checked, failures and refusals audited, rates limited.

A valid credential becomes a Principal. Lookups of API keys are cached for a moment, so that the run path does not touch
the database for each request and a revoked key still stops working within seconds in every process.
"""

from __future__ import annotations

import hmac
import logging
import threading
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache, partial

from asgiref.sync import sync_to_async
from cachetools import FIFOCache
from django.conf import settings
from limits import RateLimitItem, parse
from limits.errors import StorageError
from limits.storage import storage_from_string
from limits.strategies import MovingWindowRateLimiter

from apps.audit.services.recording import record_audit
from apps.identity.services.keys import KeyLookup, look_up_key, secret_hash
from clasper.core.auth import ALL, Principal
from clasper.core.db import Batch, atomic_batch, writer
from clasper.core.errors import ClasperError, InvalidDaemonKey, RateLimited, Unauthenticated, Unavailable
from clasper.core.tenancy import ALL_TENANTS
from clasper.core.threads import in_thread

logger = logging.getLogger("clasper.auth")

DAEMON_HEADER = "x-agent-daemon-key"
BEARER_HEADER = "authorization"

DAEMON = Principal(actor="system:daemon", tenants=ALL_TENANTS, scopes=frozenset({ALL}))
OPEN = Principal(actor="system:open", tenants=ALL_TENANTS, scopes=frozenset({ALL}))

CACHED_FOR = timedelta(seconds=3)
"""A revoked key must stop working within 5 s in every process; the rest is for the request under way."""
CACHED_KEYS = 10_000
AUDITED_FAILURES_A_MINUTE = 30
"""Bounds what a flood of bad credentials can write into the audit log; the others are only logged."""


class _Refused(Exception):
    """The credentials do not authenticate. `error` is for the caller, the rest for the audit log."""

    def __init__(self, error: ClasperError, reason: str, key: Principal | None = None) -> None:
        super().__init__(reason)
        self.error = error
        self.reason = reason
        self.tenant_id = key.tenants.audit_chain if key else ""
        self.details = {"reason": reason, "key_id": key.actor.removeprefix("key:")} if key else {"reason": reason}


def authenticate(headers: Mapping[str, str], *, now: datetime) -> Principal:
    """The caller that the request's headers (names in lower case) authenticate.

    Raises InvalidDaemonKey (missing or wrong daemon key) or Unauthenticated (unknown, expired or revoked API key);
    failures are audited as `auth.failure`.
    """
    try:
        trusted, secret = _read_credentials(headers)
        if secret is None:
            return trusted
        return _admit(_cached(secret, now) or _look_up(secret, now), now)
    except _Refused as refusal:
        if _failures.admits(refusal, now):
            with atomic_batch() as batch:
                _record_failure(batch, refusal, now)
        raise refusal.error from None


async def authenticate_async(headers: Mapping[str, str], *, now: datetime) -> Principal:
    """As `authenticate`, for the event loop; leaves its thread only for a key that is not cached."""
    try:
        trusted, secret = _read_credentials(headers)
        if secret is None:
            return trusted
        found = _cached(secret, now)
        if found is None:
            found = await in_thread(_look_up, secret, now)
        return _admit(found, now)
    except _Refused as refusal:
        if _failures.admits(refusal, now):
            await writer.submit(partial(_record_failure, refusal=refusal, now=now), key=refusal.tenant_id)
        raise refusal.error from None


def authenticate_optional(headers: Mapping[str, str], *, now: datetime) -> Principal | None:
    """The caller of a public route; None without credentials or with wrong ones, whose use is audited as elsewhere."""
    if DAEMON_HEADER not in headers and BEARER_HEADER not in headers and not _is_open():
        return None
    try:
        return authenticate(headers, now=now)
    except (InvalidDaemonKey, Unauthenticated):
        return None


def record_denial(batch: Batch, *, principal: Principal, permission: str, route: str, now: datetime) -> None:
    """Audits that a valid credential was refused; `route` is `METHOD pattern`, without the caller's values."""
    record_audit(
        batch,
        tenant_id=principal.tenants.audit_chain,
        event_type="permission.denied",
        actor=principal.actor,
        now=now,
        details={"permission": permission, "route": route},
    )


def check_rate(principal: Principal) -> None:
    """Counts a request against the credential's rate limit, if it has one. Raises RateLimited with `retry_after`.

    Counted in Redis if REDIS_URL is set, otherwise separately by each process.
    """
    if not principal.rate_limit:
        return
    item = _rate(principal.rate_limit)
    limiter = _limiter(settings.REDIS_URL)
    try:
        if limiter.hit(item, principal.actor):
            return
        reset_at = limiter.get_window_stats(item, principal.actor).reset_time
    except StorageError as error:
        raise Unavailable("The rate limit cannot be checked; try again.") from error
    raise RateLimited(
        f"The credential's rate limit is {principal.rate_limit}.",
        details={"limit": principal.rate_limit},
        retry_after=max(0.0, reset_at - time.time()),
    )


async def check_rate_async(principal: Principal) -> None:
    """As `check_rate`, for the event loop; uses a thread only to talk to Redis."""
    if principal.rate_limit and settings.REDIS_URL:
        await sync_to_async(check_rate, thread_sensitive=False)(principal)
    else:
        check_rate(principal)


def _is_open() -> bool:
    return not settings.PRODUCTION and not settings.AGENT_DAEMON_API_KEY and not settings.AGENT_DAEMON_API_KEY_PREVIOUS


def _read_credentials(headers: Mapping[str, str]) -> tuple[Principal, str | None]:
    """The principal of the daemon key, and the API key's secret that narrows it, if one was sent."""
    daemon_key = headers.get(DAEMON_HEADER, "")
    scheme, _, secret = headers.get(BEARER_HEADER, "").partition(" ")
    has_secret = scheme.lower() == "bearer"
    if _is_open():
        trusted = OPEN
    elif daemon_key:
        if not _is_daemon_key(daemon_key):
            raise _Refused(InvalidDaemonKey(), "invalid_daemon_key")
        trusted = DAEMON
    elif has_secret:
        trusted = DAEMON  # never handed out: the API key's principal takes its place
    else:
        raise _Refused(InvalidDaemonKey(), "missing_credential")
    return trusted, secret.strip() if has_secret else None


def _is_daemon_key(given: str) -> bool:
    """Compares with both configured keys, always, in constant time."""
    candidate = given.encode("utf-8", "surrogatepass")
    valid = False
    for configured in (settings.AGENT_DAEMON_API_KEY, settings.AGENT_DAEMON_API_KEY_PREVIOUS):
        equal = hmac.compare_digest(candidate, configured.encode("utf-8", "surrogatepass"))
        valid |= equal and bool(configured)
    return valid


def _admit(found: KeyLookup, now: datetime) -> Principal:
    failure = found.failure(now)
    if failure or found.principal is None:
        raise _Refused(Unauthenticated(), failure, found.principal)
    return found.principal


def _record_failure(batch: Batch, refusal: _Refused, now: datetime) -> None:
    tenant_id, details = refusal.tenant_id, refusal.details
    record_audit(batch, tenant_id=tenant_id, event_type="auth.failure", actor="anonymous", now=now, details=details)


_Lookups = FIFOCache[str, tuple[KeyLookup, datetime]]

_known: _Lookups = FIFOCache(CACHED_KEYS)
_unknown: _Lookups = FIFOCache(CACHED_KEYS)
"""Lookups and their times by the hash of the secret. Separate, so that a flood of invented keys does not evict the real
ones."""
_lookups_lock = threading.Lock()


def _cached(secret: str, now: datetime) -> KeyLookup | None:
    digest = secret_hash(secret)
    with _lookups_lock:
        entries = _known.get(digest), _unknown.get(digest)
    return next((entry[0] for entry in entries if entry and abs(now - entry[1]) < CACHED_FOR), None)


def _look_up(secret: str, now: datetime) -> KeyLookup:
    found = look_up_key(secret, now)
    cache = _known if found.principal else _unknown
    with _lookups_lock:
        cache[secret_hash(secret)] = found, now
    return found


class _FailureBudget:
    """Lets the first AUDITED_FAILURES_A_MINUTE failures of a minute into the audit log and logs the others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: datetime | None = None
        self._count = 0

    def admits(self, refusal: _Refused, now: datetime) -> bool:
        with self._lock:
            if self._since is None or abs(now - self._since) >= timedelta(minutes=1):
                self._since, self._count = now, 0
            self._count += 1
            admitted = self._count <= AUDITED_FAILURES_A_MINUTE
        if not admitted:
            logger.warning("authentication failed: %s", refusal.reason)
        return admitted


_failures = _FailureBudget()


@lru_cache(maxsize=1024)
def _rate(text: str) -> RateLimitItem:
    return parse(text)


@lru_cache(maxsize=2)
def _limiter(redis_url: str) -> MovingWindowRateLimiter:
    if not redis_url:
        return MovingWindowRateLimiter(storage_from_string("memory://"))
    return MovingWindowRateLimiter(storage_from_string(redis_url, wrap_exceptions=True))
