"""Credentials: who is let in as whom, what a failure costs and leaves behind, and how fast a revoked key ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from cachetools import FIFOCache
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext

from apps.audit.services.reading import list_audit
from apps.identity.domain.permissions import check_scope
from apps.identity.models import ApiKey
from apps.identity.services import authentication as access
from apps.identity.services.authentication import (
    authenticate,
    authenticate_async,
    authenticate_optional,
    check_rate,
    check_rate_async,
    record_denial,
)
from apps.identity.services.keys import NewKey, create_api_key, revoke_api_key
from clasper.core.auth import Principal
from clasper.core.db import atomic_batch
from clasper.core.errors import ClasperError, InvalidDaemonKey, PermissionDenied, RateLimited, Unauthenticated
from clasper.core.ids import new_id
from clasper.core.tenancy import ALL_TENANTS, OneTenant

DAEMON = "daemon-key-of-today"
PREVIOUS = "daemon-key-of-yesterday"
NOBODY = "clk_" + "x" * 43


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    """Nothing remembered and no failure counted yet; both daemon keys configured."""
    monkeypatch.setattr(access, "_failures", access._FailureBudget())
    monkeypatch.setattr(access, "_known", FIFOCache(access.CACHED_KEYS))
    monkeypatch.setattr(access, "_unknown", FIFOCache(access.CACHED_KEYS))
    settings.AGENT_DAEMON_API_KEY = DAEMON
    settings.AGENT_DAEMON_API_KEY_PREVIOUS = PREVIOUS


@pytest.fixture
async def threads(store: None) -> AsyncIterator[None]:
    """Closes the connection of the thread that asynchronous look-ups use."""
    yield
    await sync_to_async(connections.close_all)()


def make(now: datetime, **changes: Any) -> NewKey:
    chosen = {"tenant_id": "acme", "name": "ci", "scopes": ["agents:run"], "actor": "user:ada", "now": now}
    return create_api_key(**{**chosen, **changes})


def headers(daemon: str | None = None, bearer: str | None = None) -> dict[str, str]:
    given = {"x-agent-daemon-key": daemon, "authorization": None if bearer is None else f"Bearer {bearer}"}
    return {name: value for name, value in given.items() if value is not None}


def failures() -> list[tuple[str, dict[str, Any]]]:
    page = list_audit(tenants=ALL_TENANTS, event_type="auth.failure")
    assert all(entry.actor == "anonymous" for entry in page.entries)
    return [(entry.tenant_id, entry.details) for entry in page.entries]


def expected_actor(name: str, keys: dict[str, NewKey]) -> str:
    return f"key:{keys[name].id}" if name in keys else f"system:{name}"


# given headers (names of keys stand for their secrets), and who it is or why it is refused, and as what
CASES: list[tuple[dict[str, str], str, type[ClasperError] | None]] = [
    (headers(daemon=DAEMON), "daemon", None),
    (headers(daemon=PREVIOUS), "daemon", None),
    (headers(daemon=DAEMON + "x"), "invalid_daemon_key", InvalidDaemonKey),
    (headers(daemon="clé"), "invalid_daemon_key", InvalidDaemonKey),
    (headers(daemon=""), "missing_credential", InvalidDaemonKey),
    (headers(), "missing_credential", InvalidDaemonKey),
    ({"authorization": "Basic YTpi"}, "missing_credential", InvalidDaemonKey),
    (headers(bearer="valid"), "valid", None),
    ({"authorization": "bearer  valid"}, "valid", None),
    (headers(daemon=DAEMON, bearer="valid"), "valid", None),
    (headers(daemon="wrong", bearer="valid"), "invalid_daemon_key", InvalidDaemonKey),
    (headers(bearer=NOBODY), "unknown_key", Unauthenticated),
    (headers(bearer=""), "unknown_key", Unauthenticated),
    (headers(bearer="eyJhbGciOi"), "unknown_key", Unauthenticated),
    (headers(daemon=DAEMON, bearer=NOBODY), "unknown_key", Unauthenticated),
    (headers(bearer="expired"), "expired_key", Unauthenticated),
    (headers(bearer="revoked"), "revoked_key", Unauthenticated),
]


@pytest.fixture
def keys(store: None, now: datetime) -> dict[str, NewKey]:
    made = {"valid": make(now), "expired": make(now - timedelta(2), expires_at=now), "revoked": make(now)}
    revoke_api_key(key_id=made["revoked"].id, actor="user:ada", now=now, tenants=ALL_TENANTS)
    return made


def with_secrets(given: dict[str, str], keys: dict[str, NewKey]) -> dict[str, str]:
    bearer = given.get("authorization", "")
    scheme, _, name = bearer.rpartition(" ")
    return {**given, "authorization": f"{scheme} {keys[name].key}"} if name in keys else given


def check(result: Principal | ClasperError, outcome: str, refused: type[ClasperError] | None, keys: Any) -> None:
    if refused is None:
        assert isinstance(result, Principal)
        assert result.actor == expected_actor(outcome, keys)
        assert result.tenants == (OneTenant("acme") if outcome in keys else ALL_TENANTS)
        assert failures() == []
        return
    assert type(result) is refused
    details = {"reason": outcome}
    tenant_id = ""
    if outcome in ("expired_key", "revoked_key"):
        tenant_id, details = "acme", {**details, "key_id": keys[outcome.removesuffix("_key")].id}
    assert failures() == [(tenant_id, details)]


@pytest.mark.parametrize(("given", "outcome", "refused"), CASES)
def test_credentials(
    keys: dict[str, NewKey],
    now: datetime,
    given: dict[str, str],
    outcome: str,
    refused: type[ClasperError] | None,
) -> None:
    result: Principal | ClasperError
    try:
        result = authenticate(with_secrets(given, keys), now=now)
    except ClasperError as error:
        result = error
    check(result, outcome, refused, keys)


@pytest.mark.parametrize(("given", "outcome", "refused"), CASES)
async def test_credentials_async(
    keys: dict[str, NewKey],
    threads: None,
    now: datetime,
    given: dict[str, str],
    outcome: str,
    refused: type[ClasperError] | None,
) -> None:
    result: Principal | ClasperError
    try:
        result = await authenticate_async(with_secrets(given, keys), now=now)
    except ClasperError as error:
        result = error
    await sync_to_async(check)(result, outcome, refused, keys)


def test_statuses_and_codes() -> None:
    assert (InvalidDaemonKey().status, InvalidDaemonKey().error_code) == (403, "invalid_daemon_key")
    assert Unauthenticated().status == 401


def test_without_configured_keys_development_is_open(keys: dict[str, NewKey], now: datetime, settings: Any) -> None:
    settings.AGENT_DAEMON_API_KEY = settings.AGENT_DAEMON_API_KEY_PREVIOUS = ""
    for given in (headers(), headers(daemon="anything"), headers(daemon="")):
        caller = authenticate(given, now=now)
        assert (caller.actor, caller.tenants) == ("system:open", ALL_TENANTS)
        assert caller.scopes == {"*"}
    assert authenticate(headers(bearer=keys["valid"].key), now=now).tenants == OneTenant("acme")
    with pytest.raises(Unauthenticated):
        authenticate(headers(bearer=NOBODY), now=now)


@pytest.mark.parametrize("given", [headers(), headers(daemon=""), headers(daemon="x")])
def test_without_configured_keys_production_is_closed(
    store: None, now: datetime, settings: Any, given: dict[str, str]
) -> None:
    settings.AGENT_DAEMON_API_KEY = settings.AGENT_DAEMON_API_KEY_PREVIOUS = ""
    settings.PRODUCTION = True
    with pytest.raises(InvalidDaemonKey):
        authenticate(given, now=now)


def test_only_the_old_key_configured_still_guards(store: None, now: datetime, settings: Any) -> None:
    settings.AGENT_DAEMON_API_KEY = ""
    assert authenticate(headers(daemon=PREVIOUS), now=now).actor == "system:daemon"
    with pytest.raises(InvalidDaemonKey):
        authenticate(headers(), now=now)


def test_a_remembered_key_costs_no_query_and_ends_soon_after_it_is_revoked(store: None, now: datetime) -> None:
    new = make(now)
    given = headers(bearer=new.key)
    authenticate(given, now=now)
    with CaptureQueriesContext(connection) as queries:
        authenticate(given, now=now + timedelta(seconds=2.9))
    assert len(queries) == 0
    revoke_api_key(key_id=new.id, actor="user:ada", now=now, tenants=ALL_TENANTS)
    with pytest.raises(Unauthenticated):
        authenticate(given, now=now + timedelta(seconds=5))


async def test_a_remembered_key_needs_no_thread(store: None, threads: None, now: datetime) -> None:
    new = await sync_to_async(make)(now)
    given = headers(bearer=new.key)
    await authenticate_async(given, now=now)
    waiting = authenticate_async(given, now=now + timedelta(seconds=1))
    with pytest.raises(StopIteration) as returned:
        waiting.send(None)
    assert returned.value.value.tenants == OneTenant("acme")
    await sync_to_async(revoke_api_key)(key_id=new.id, actor="user:ada", now=now, tenants=ALL_TENANTS)
    with pytest.raises(Unauthenticated):
        await authenticate_async(given, now=now + timedelta(seconds=5))


def test_a_remembered_key_expires_on_time(store: None, now: datetime) -> None:
    given = headers(bearer=make(now, expires_at=now + timedelta(seconds=1)).key)
    authenticate(given, now=now)
    with pytest.raises(Unauthenticated):
        authenticate(given, now=now + timedelta(seconds=1))


def test_an_unknown_key_is_remembered_too(store: None, now: datetime) -> None:
    with pytest.raises(Unauthenticated):
        authenticate(headers(bearer=NOBODY), now=now)
    with CaptureQueriesContext(connection) as queries, pytest.raises(Unauthenticated):
        authenticate(headers(bearer=NOBODY), now=now)
    assert not [query for query in queries if "api_keys" in query["sql"]]


def test_a_flood_of_unknown_keys_evicts_the_oldest_of_them_and_no_real_one(
    store: None, monkeypatch: pytest.MonkeyPatch, now: datetime
) -> None:
    monkeypatch.setattr(access, "_unknown", FIFOCache(3))
    real = make(now).key
    authenticate(headers(bearer=real), now=now)
    for secret in ("a", "b", "c", "d"):
        access._look_up(secret, now)
    cached = [secret for secret in ("a", "b", "c", "d", real) if access._cached(secret, now)]
    assert cached == ["b", "c", "d", real]


def test_a_flood_of_failures_cannot_fill_the_log(store: None, now: datetime, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(access.AUDITED_FAILURES_A_MINUTE + 5):
        with pytest.raises(InvalidDaemonKey):
            authenticate(headers(daemon="wrong"), now=now)
    assert len(failures()) == access.AUDITED_FAILURES_A_MINUTE
    logged = [record.getMessage() for record in caplog.records if record.name == "clasper.auth"]
    assert logged == ["authentication failed: invalid_daemon_key"] * 5
    with pytest.raises(InvalidDaemonKey):
        authenticate(headers(daemon="wrong"), now=now + timedelta(minutes=1))
    assert len(failures()) == access.AUDITED_FAILURES_A_MINUTE + 1


async def test_concurrent_look_ups_agree(store: None, threads: None, now: datetime) -> None:
    new = await sync_to_async(make)(now)
    callers = await asyncio.gather(*(authenticate_async(headers(bearer=new.key), now=now) for _ in range(20)))
    assert {caller.actor for caller in callers} == {f"key:{new.id}"}
    row = await sync_to_async(ApiKey.objects.get)()
    assert row.last_used_at == now


def test_a_public_route_may_be_called_without_credentials(keys: dict[str, NewKey], now: datetime) -> None:
    assert authenticate_optional(headers(), now=now) is None
    assert failures() == []
    assert authenticate_optional(headers(daemon="wrong"), now=now) is None
    assert len(failures()) == 1
    caller = authenticate_optional(headers(daemon=DAEMON), now=now)
    assert caller is not None
    assert caller.actor == "system:daemon"


def test_a_missing_scope_is_refused_and_recorded(keys: dict[str, NewKey], now: datetime) -> None:
    caller = authenticate(headers(bearer=keys["valid"].key), now=now)
    check_scope(caller, "agents:run")
    with pytest.raises(PermissionDenied) as refused:
        check_scope(caller, "traces:read")
    assert refused.value.details == {"permission": "traces:read"}
    with atomic_batch() as batch:
        record_denial(batch, principal=caller, permission="traces:read", route="GET /traces", now=now)
    entry = list_audit(tenants=OneTenant("acme")).entries[0]
    assert (entry.event_type, entry.actor) == ("permission.denied", f"key:{keys['valid'].id}")
    assert entry.details == {"permission": "traces:read", "route": "GET /traces"}


@pytest.fixture
def limited() -> Iterator[Principal]:
    access._limiter.cache_clear()
    # A key of its own: Redis remembers the hits of other tests and earlier runs.
    yield Principal(actor=f"key:{new_id()}", tenants=OneTenant("acme"), scopes=frozenset({"*"}), rate_limit="2/minute")
    access._limiter.cache_clear()


@pytest.mark.parametrize("check_it", [check_rate, async_to_sync(check_rate_async)])
def test_the_rate_limit(limited: Principal, check_it: Any) -> None:
    check_it(limited)
    check_it(limited)
    with pytest.raises(RateLimited) as refused:
        check_it(limited)
    assert refused.value.retry_after is not None
    assert 55 < refused.value.retry_after <= 60
    check_it(
        Principal(actor=f"key:{new_id()}", tenants=OneTenant("acme"), scopes=frozenset({"*"}), rate_limit="2/minute")
    )
    for _ in range(5):
        check_it(Principal(actor="key:free", tenants=OneTenant("acme"), scopes=frozenset({"*"})))
