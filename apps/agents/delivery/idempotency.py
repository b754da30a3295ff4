"""Idempotency-Key: repeating a request within a day returns the first answer instead of running again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
from django.conf import settings

from apps.agents.models import StoredResponse
from clasper.core.crypto import SealBroken, seal, unseal
from clasper.core.db import Batch
from clasper.core.errors import Unavailable
from clasper.core.tenancy import TenantScope

KEPT = timedelta(hours=24)

_CLAIM = """INSERT INTO idempotency_keys (tenant_id, key, fingerprint, trace_id, sealed, expires_at)
 VALUES (%s, %s, %s, %s, NULL, %s) ON CONFLICT (tenant_id, key) DO NOTHING"""


@dataclass(frozen=True, slots=True)
class Claim:
    """The state of a key: `claimed` by this run, or an earlier run has it: with another body (`mismatch`), without an
    answer yet (`in_progress`), or with its sealed answer (`stored`). `trace_id` names the run that owns the key."""

    state: Literal["claimed", "mismatch", "in_progress", "stored"]
    trace_id: str
    sealed: bytes = b""


def claim_key(batch: Batch, *, tenant_id: str, key: str, fingerprint: str, trace_id: str, now: datetime) -> Claim:
    """Claims the key for this run, or returns the state of the run that owns it.

    The table holds a digest, because callers may use personal data as a key.
    """
    key = _digest(key)
    row = (tenant_id, key, fingerprint, trace_id, now + KEPT)
    batch.execute(
        "DELETE FROM idempotency_keys WHERE tenant_id = %s AND key = %s AND expires_at <= %s", (tenant_id, key, now)
    )
    if batch.execute(_CLAIM, row) == 1:
        return Claim("claimed", trace_id)
    owner = batch.fetch_one(
        "SELECT fingerprint, trace_id, sealed FROM idempotency_keys WHERE tenant_id = %s AND key = %s",
        (tenant_id, key),
    )
    if owner is None:  # released between the two statements: the caller may simply try again
        return Claim("in_progress", trace_id)
    if owner[0] != fingerprint:
        return Claim("mismatch", owner[1])
    if owner[2] is None:
        return Claim("in_progress", owner[1])
    return Claim("stored", owner[1], bytes(owner[2]))


def store_response(batch: Batch, *, tenant_id: str, trace_id: str, sealed: bytes) -> None:
    """Stores the sealed answer of a run under its key."""
    batch.execute(
        "UPDATE idempotency_keys SET sealed = %s WHERE tenant_id = %s AND trace_id = %s", (sealed, tenant_id, trace_id)
    )


def release_key(batch: Batch, *, tenant_id: str, trace_id: str) -> None:
    """Frees the key of a run that ended without an answer, so that a retry runs again."""
    batch.execute(
        "DELETE FROM idempotency_keys WHERE tenant_id = %s AND trace_id = %s AND sealed IS NULL", (tenant_id, trace_id)
    )


def drop_claim(batch: Batch, *, tenant_id: str, key: str) -> None:
    """Takes back a claim made in the same batch; does nothing without a key."""
    if key:
        row = (tenant_id, _digest(key))
        batch.execute("DELETE FROM idempotency_keys WHERE tenant_id = %s AND key = %s", row)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def forget_expired(batch: Batch, *, now: datetime) -> int:
    """Deletes keys and answers older than a day; returns how many there were."""
    return batch.execute("DELETE FROM idempotency_keys WHERE expires_at <= %s", (now,))


def seal_response(body: Any, *, tenant_id: str, trace_id: str) -> bytes:
    """The answer, encrypted for storage."""
    return seal(msgspec.json.encode(body), key=settings.SEALING_KEY, bound_to=f"response:{tenant_id}:{trace_id}")


def open_response(sealed: bytes, *, tenant_id: str, trace_id: str) -> dict[str, Any]:
    """The stored answer. Raises Unavailable when it was encrypted with another key."""
    try:
        plain = unseal(sealed, key=settings.SEALING_KEY, bound_to=f"response:{tenant_id}:{trace_id}")
    except SealBroken as error:
        raise Unavailable("The stored answer cannot be decrypted; send another Idempotency-Key.") from error
    body: dict[str, Any] = msgspec.json.decode(plain)
    return body


def stored_response(*, tenants: TenantScope, key: str, fingerprint: str, now: datetime) -> dict[str, Any] | None:
    """The answer stored in the scope under this key for the body with this fingerprint, if there is one.

    Raises Unavailable as `open_response` does.
    """
    answers = StoredResponse.objects.in_scope(tenants)
    found = answers.filter(key=_digest(key), fingerprint=fingerprint, expires_at__gt=now).first()
    if found is None or found.sealed is None:
        return None
    return open_response(bytes(found.sealed), tenant_id=found.tenant_id, trace_id=found.trace_id)
