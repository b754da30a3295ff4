"""Idempotency-Key: repeating a request within a day returns the first answer instead of running again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
from django.conf import settings

from apps.agents.domain.json_output import ParsedOutput
from apps.agents.domain.run import Kind, RunCost, RunResult
from apps.agents.models import StoredResponse
from clasper.core.crypto import SealBroken, seal, unseal
from clasper.core.db import Batch
from clasper.core.errors import Unavailable
from clasper.core.money import from_usd
from clasper.core.tenancy import TenantScope
from clasper.core.usage import Usage

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

    The table contains a digest, because callers may use personal data as a key.
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


def store_result(batch: Batch, *, tenant_id: str, trace_id: str, sealed: bytes) -> None:
    """Stores the sealed result of a run under its key."""
    batch.execute(
        "UPDATE idempotency_keys SET sealed = %s WHERE tenant_id = %s AND trace_id = %s", (sealed, tenant_id, trace_id)
    )


def release_key(batch: Batch, *, tenant_id: str, trace_id: str) -> None:
    """Frees the key of a run that ended without an answer, so that a retry runs again."""
    batch.execute(
        "DELETE FROM idempotency_keys WHERE tenant_id = %s AND trace_id = %s AND sealed IS NULL", (tenant_id, trace_id)
    )


def drop_claim(batch: Batch, *, tenant_id: str, key: str) -> None:
    """Takes back a claim made in the same batch."""
    row = (tenant_id, _digest(key))
    batch.execute("DELETE FROM idempotency_keys WHERE tenant_id = %s AND key = %s", row)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def forget_expired(batch: Batch, *, now: datetime) -> int:
    """Deletes keys and answers older than a day; returns how many there were."""
    return batch.execute("DELETE FROM idempotency_keys WHERE expires_at <= %s", (now,))


def seal_result(result: RunResult, *, tenant_id: str) -> bytes:
    """The result, encrypted for storage."""
    return seal(msgspec.json.encode(result), key=settings.SEALING_KEY, bound_to=_bound_to(tenant_id, result.trace_id))


def open_result(sealed: bytes, *, tenant_id: str, trace_id: str) -> RunResult:
    """The stored result. Raises Unavailable when it was encrypted with another key."""
    try:
        plain = unseal(sealed, key=settings.SEALING_KEY, bound_to=_bound_to(tenant_id, trace_id))
    except SealBroken as error:
        raise Unavailable("The stored answer cannot be decrypted; send another Idempotency-Key.") from error
    try:
        return msgspec.json.decode(plain, type=RunResult)
    except msgspec.ValidationError:
        return _result_in_body(msgspec.json.decode(plain))


def _result_in_body(body: dict[str, Any]) -> RunResult:
    """The result in a response body, which is what version 1.1 stored; such rows are gone a day after an upgrade."""
    cost, usage = body["cost"], body["usage"]
    text = body["response"] if "response" in body else (body.get("compacted_messages") or [{}])[0].get("content", "")
    parsed = None
    if "output" in body:
        parsed = ParsedOutput(body["output"], True, body["validated"], tuple(body.get("validation_errors", ())))
    kind: Kind = "replay"
    if "task_id" in body:
        kind = "send"
    elif "response" not in body:
        kind = "compact" if "compacted_messages" in body else "llm_task"
    return RunResult(
        kind=kind,
        trace_id=body["trace_id"],
        task_id=body.get("task_id") or "",
        text=text,
        usage=Usage(input=usage["prompt_tokens"], output=usage["completion_tokens"]),
        cost=RunCost(
            model=cost["model"],
            input_tokens=cost["inputTokens"],
            output_tokens=cost["outputTokens"],
            input=from_usd(cost["inputCost"]),
            output=from_usd(cost["outputCost"]),
        ),
        parsed=parsed,
        context_warning=body.get("context_warning", ""),
        skipped_backend=body.get("skipped_backend", False),
    )


def stored_result(*, tenants: TenantScope, key: str, fingerprint: str, now: datetime) -> RunResult | None:
    """The result stored in the scope under this key for the body with this fingerprint, if there is one.

    Raises Unavailable as `open_result` does.
    """
    answers = StoredResponse.objects.in_scope(tenants)
    found = answers.filter(key=_digest(key), fingerprint=fingerprint, expires_at__gt=now).first()
    if found is None or found.sealed is None:
        return None
    return open_result(bytes(found.sealed), tenant_id=found.tenant_id, trace_id=found.trace_id)


def _bound_to(tenant_id: str, trace_id: str) -> str:
    return f"response:{tenant_id}:{trace_id}"
