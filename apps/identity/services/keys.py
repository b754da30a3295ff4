"""Tenant API keys: create (the key is shown once), list, revoke, and look up by the secret."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q, QuerySet
from limits import parse
from msgspec.structs import asdict

from apps.audit.services.recording import record_audit
from apps.identity.domain.permissions import unknown_scopes
from apps.identity.models import ApiKey
from clasper.core.auth import ALL, Principal
from clasper.core.db import atomic_batch
from clasper.core.errors import InvalidRequest, NotFound
from clasper.core.ids import new_id
from clasper.core.schemas import Instant, Resource
from clasper.core.tenancy import OneTenant, TenantScope

KEY_PREFIX = "clk_"
SHOWN_CHARS = 12
"""How many first characters are kept to recognise a key by; showing 8 of its 43 random ones does not weaken it."""
LAST_USED_STEP = timedelta(minutes=1)
"""`last_used_at` is this coarse, so that a busy key does not cost a write for every request."""

_SECRET = re.compile(r"clk_[A-Za-z0-9_-]{43}")
_PATTERN = re.compile(r"[^\s,]+")


class KeyLimits(Resource, frozen=True, kw_only=True):
    """What narrows the runs of a key.

    Tools are names, `ns:*` or `*`; without an allowed tool, runs get none. Empty models or skills mean all of them.
    """

    allowed_tools: tuple[str, ...] = (ALL,)
    denied_tools: tuple[str, ...] = ()
    allowed_models: tuple[str, ...] = ()
    allowed_skills: tuple[str, ...] = ()
    max_output_tokens: int | None = None
    rate_limit: str = ""


class KeySummary(KeyLimits, frozen=True, kw_only=True):
    """A key as it is listed: everything but the secret."""

    id: str
    tenant_id: str
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: Instant
    created_by: str
    expires_at: Instant | None
    revoked_at: Instant | None
    last_used_at: Instant | None


class NewKey(Resource, frozen=True, kw_only=True):
    """A key just created. `key` is the credential itself, which cannot be read again."""

    id: str
    key: str
    tenant_id: str
    name: str
    scopes: tuple[str, ...]
    expires_at: Instant | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLookup:
    """The key that a secret belongs to, valid or not. `principal` is None for an unknown one."""

    principal: Principal | None = None
    revoked: bool = False
    expires_at: datetime | None = None

    def failure(self, now: datetime) -> str:
        """Why the key does not authenticate: `unknown_key`, `revoked_key`, `expired_key`, or "" if it does."""
        if self.principal is None:
            return "unknown_key"
        if self.revoked:
            return "revoked_key"
        return "expired_key" if self.expires_at is not None and self.expires_at <= now else ""


UNKNOWN_KEY = KeyLookup()

UNLIMITED = KeyLimits()

_NAME_LISTS = ("allowed_tools", "denied_tools", "allowed_models", "allowed_skills")
"""Limits that are lists of names; a row has them as comma-separated text."""


def create_api_key(
    *,
    tenant_id: str,
    name: str,
    scopes: Iterable[str],
    actor: str,
    now: datetime,
    expires_at: datetime | None = None,
    limits: KeyLimits = UNLIMITED,
) -> NewKey:
    """Creates a tenant's key and audits `key.create`. Raises InvalidRequest with all errors at once."""
    scopes = tuple(dict.fromkeys(scopes))
    errors = key_errors(
        tenant_id=tenant_id, name=name, scopes=scopes, actor=actor, now=now, expires_at=expires_at, limits=limits
    )
    if errors:
        raise InvalidRequest("The API key cannot be created.", field_errors=errors)
    secret = KEY_PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(
        id=new_id(),
        tenant_id=tenant_id,
        name=name,
        prefix=secret[:SHOWN_CHARS],
        secret_hash=secret_hash(secret),
        scopes=",".join(scopes),
        created_at=now,
        created_by=actor,
        expires_at=expires_at,
        **_columns(limits),
    )
    with atomic_batch() as batch:
        key.save(force_insert=True)
        details = {"key_id": key.id, "name": name, "prefix": key.prefix, "scopes": list(scopes)}
        record_audit(batch, tenant_id=tenant_id, event_type="key.create", actor=actor, now=now, details=details)
    return NewKey(id=key.id, key=secret, tenant_id=tenant_id, name=name, scopes=scopes, expires_at=expires_at)


def key_errors(
    *,
    tenant_id: str,
    name: str,
    scopes: Iterable[str],
    actor: str,
    now: datetime,
    expires_at: datetime | None,
    limits: KeyLimits,
) -> dict[str, list[str]]:
    """Everything that is wrong with a key to be created, by field; empty when nothing is."""
    scopes = list(scopes)
    unknown = unknown_scopes(scopes)
    tokens = limits.max_output_tokens
    checks = [
        ("tenant_id", not tenant_id or len(tenant_id) > 128, "Name a tenant, at most 128 characters."),
        ("name", len(name) > 128, "At most 128 characters."),
        ("actor", len(actor) > 128, "At most 128 characters."),
        ("scopes", not scopes, "Give at least one scope."),
        ("scopes", bool(unknown), f"Unknown scopes: {', '.join(unknown)}."),
        ("expires_at", expires_at is not None and expires_at <= now, "The expiry must lie in the future."),
        ("max_output_tokens", tokens is not None and not 0 < tokens < 2**31, "Give a positive number of tokens."),
        ("rate_limit", not _is_rate(limits.rate_limit), "Write a rate such as 100/minute."),
    ]
    for field in _NAME_LISTS:
        malformed = not all(map(_PATTERN.fullmatch, getattr(limits, field)))
        checks.append((field, malformed, "Names must not contain spaces or commas."))
    errors: dict[str, list[str]] = {}
    for field, failed, text in checks:
        if failed:
            errors.setdefault(field, []).append(text)
    return errors


def list_api_keys(*, tenants: TenantScope) -> tuple[KeySummary, ...]:
    """The scope's keys, newest first, revoked and expired ones included."""
    return tuple(map(_summary, _keys_of(tenants)))


def revoke_api_key(*, key_id: str, actor: str, now: datetime, tenants: TenantScope) -> KeySummary:
    """Ends a key for good and audits `key.revoke`; a key already revoked is left as it is.

    Raises NotFound for an unknown key and for one outside the scope alike.
    """
    with atomic_batch() as batch:
        key = _keys_of(tenants).select_for_update().filter(id=key_id).first()
        if key is None:
            raise NotFound("No such API key.")
        if key.revoked_at is None:
            key.revoked_at = now
            key.save(update_fields=["revoked_at"])
            details = {"key_id": key.id, "name": key.name, "prefix": key.prefix}
            record_audit(batch, tenant_id=key.tenant_id, event_type="key.revoke", actor=actor, now=now, details=details)
    return _summary(key)


def look_up_key(secret: str, now: datetime) -> KeyLookup:
    """What the database says about a secret; a valid key's `last_used_at` is brought up to date."""
    key = ApiKey.objects.filter(secret_hash=secret_hash(secret)).first() if _SECRET.fullmatch(secret) else None
    if key is None:
        return UNKNOWN_KEY
    found = KeyLookup(principal=_principal(key), revoked=key.revoked_at is not None, expires_at=key.expires_at)
    if not found.failure(now):
        _note_use(key, now)
    return found


def secret_hash(secret: str) -> str:
    """Lower-case hex SHA-256 of a key, what is stored of it. 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _keys_of(tenants: TenantScope) -> QuerySet[ApiKey]:
    return ApiKey.objects.in_scope(tenants).order_by("-created_at", "-id")


def _note_use(key: ApiKey, now: datetime) -> None:
    due = now - LAST_USED_STEP
    if key.last_used_at is None or key.last_used_at <= due:
        stale = Q(last_used_at=None) | Q(last_used_at__lte=due)
        ApiKey.objects.filter(stale, id=key.id).update(last_used_at=now)


def _principal(key: ApiKey) -> Principal:
    limits = limits_in(vars(key))
    return Principal(
        actor=f"key:{key.id}",
        tenants=OneTenant(key.tenant_id),
        scopes=frozenset(names_in(key.scopes)),
        allowed_tools=frozenset(limits.allowed_tools),
        denied_tools=frozenset(limits.denied_tools),
        allowed_models=frozenset(limits.allowed_models) or None,
        allowed_skills=frozenset(limits.allowed_skills) or None,
        max_output_tokens=limits.max_output_tokens,
        rate_limit=limits.rate_limit,
    )


def _columns(limits: KeyLimits) -> dict[str, Any]:
    values = asdict(limits)
    return values | {name: ",".join(values[name]) for name in _NAME_LISTS}


def limits_in(columns: Mapping[str, Any]) -> KeyLimits:
    """The limits of a row or a form, in which lists of names are comma-separated text; other values are ignored."""
    values = {name: columns[name] for name in KeyLimits.__struct_fields__}
    return KeyLimits(**values | {name: names_in(values[name]) for name in _NAME_LISTS})


def _summary(key: ApiKey) -> KeySummary:
    values = {name: getattr(key, name) for name in KeySummary.__struct_fields__}
    return KeySummary(**values | {name: names_in(values[name]) for name in ("scopes", *_NAME_LISTS)})


def names_in(text: str) -> tuple[str, ...]:
    """The names of a comma-separated text."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _is_rate(text: str) -> bool:
    if not text:
        return True
    if len(text) > 32 or ";" in text or "," in text:
        return False
    try:
        return parse(text).amount > 0
    except ValueError:
        return False
