"""The outbox: what a run has to deliver is stored with its settlement first and sent afterwards.

A run delivers its own message and document right after settling; the periodic task `deliver_outbox` sends the webhooks
and whatever did not arrive. A delivery is claimed by moving its `next_attempt_at` forward, so that no two processes
attempt it at once and the claim of a dead process expires by itself. Idempotency keys make the rare double delivery
harmless at the backend.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
from django.conf import settings

from apps.agents.domain.delivery import (
    WEBHOOK_POSITION,
    DeliveryKind,
    PendingDelivery,
    WebhookTarget,
    wait_before_retry,
)
from apps.audit.services.recording import record_audit
from apps.traces.services.recording import link_delivered
from clasper.core.clock import from_row, utc_now
from clasper.core.crypto import SealBroken, seal, unseal
from clasper.core.db import Batch, atomic_batch, writer
from clasper.core.errors import BackendFailed, ClasperError
from clasper.core.redaction import redact_text
from clasper.gateways.control_plane import Caller, control_plane
from clasper.gateways.webhooks import WebhookFailed, deliver, encode_payload

logger = logging.getLogger("clasper.outbox")

LONGEST_ATTEMPT = 20.0
"""Seconds. An attempt may take this long, and so may the backend to accept a run's message and document; then the run
answers 502 and leaves the rest to the worker. A shorter CLASPER_RUN_TIMEOUT_MS shortens attempts too."""

PARALLEL = 32
"""Deliveries that are claimed together. All are attempted at once, because a claim must not run out in a queue."""

NOT_ACCEPTED = "The answer is stored, but the control plane has not accepted it yet; it will be delivered later."

_INSERT = """INSERT INTO outbox (id, tenant_id, trace_id, kind, position, status, attempts, created_at, next_attempt_at,
 last_error, sealed) VALUES (%s, %s, %s, %s, %s, %s, 0, %s, %s, '', %s)"""

_DUE = """SELECT o.id, o.tenant_id, o.trace_id, o.kind, o.position, o.attempts, o.created_at, o.sealed FROM outbox o
 WHERE o.status = 'pending' AND o.next_attempt_at <= %s AND (o.kind = 'webhook' OR NOT EXISTS (
 SELECT 1 FROM outbox e WHERE e.tenant_id = o.tenant_id AND e.trace_id = o.trace_id AND e.position < o.position
 AND e.status <> 'delivered' AND e.kind <> 'webhook')) ORDER BY o.next_attempt_at LIMIT %s"""


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery that this process alone attempts, with its decrypted payload."""

    id: str
    tenant_id: str
    trace_id: str
    kind: DeliveryKind
    attempts: int
    created_at: datetime
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one attempt went; `external_id` is the backend's id of what it created."""

    ok: bool
    external_id: str = ""
    error: str = ""
    retryable: bool = True
    retry_after: float | None = None


def sealed_row(delivery: PendingDelivery, *, tenant_id: str, trace_id: str, now: datetime) -> tuple[Any, ...]:
    """The row of a backend write, already claimed, because the run delivers it itself first."""
    sealed = _seal(delivery.payload, tenant_id, delivery.id)
    claimed_until = now + _claim_time()
    return (delivery.id, tenant_id, trace_id, delivery.kind, delivery.position, "pending", now, claimed_until, sealed)


def enqueue(batch: Batch, rows: Iterable[tuple[Any, ...]]) -> None:
    """Part of a write: stores deliveries, in the transaction that makes them due."""
    for row in rows:
        batch.queue(_INSERT, row)


def held_webhook_row(target: WebhookTarget, *, tenant_id: str, trace_id: str, now: datetime) -> tuple[Any, ...]:
    """The row that keeps a run's webhook until the run ends, so that a crash is reported too; its id is the run's."""
    sealed = _seal(asdict(target), tenant_id, trace_id)
    return (trace_id, tenant_id, trace_id, "webhook", WEBHOOK_POSITION, "held", now, now, sealed)


def release_webhook(
    batch: Batch, target: WebhookTarget, body: Mapping[str, Any], *, tenant_id: str, trace_id: str, now: datetime
) -> None:
    """Part of a write: makes the report of an ended run due. Its texts are redacted, as in all storage."""
    clean = {name: redact_text(text) if name in ("response", "error") else text for name, text in body.items()}
    report = {**asdict(target), "body": encode_payload(clean).decode()}
    batch.queue(
        "UPDATE outbox SET status = 'pending', next_attempt_at = %s, sealed = %s"
        " WHERE tenant_id = %s AND id = %s AND status = 'held'",
        (now, _seal(report, tenant_id, trace_id), tenant_id, trace_id),
    )


def held_webhook(batch: Batch, *, tenant_id: str, trace_id: str) -> WebhookTarget | None:
    """The webhook of a run that has not reported its end; None without one, or when it cannot be decrypted."""
    row = batch.fetch_one(
        "SELECT sealed FROM outbox WHERE tenant_id = %s AND id = %s AND status = 'held'", (tenant_id, trace_id)
    )
    try:
        return WebhookTarget(**_unseal(row[0], tenant_id, trace_id)) if row else None
    except SealBroken:
        return None


def _seal(payload: Mapping[str, Any], tenant_id: str, row_id: str) -> bytes:
    return seal(msgspec.json.encode(payload), key=settings.SEALING_KEY, bound_to=f"outbox:{tenant_id}:{row_id}")


def _unseal(sealed: bytes, tenant_id: str, row_id: str) -> dict[str, Any]:
    plain = unseal(sealed, key=settings.SEALING_KEY, bound_to=f"outbox:{tenant_id}:{row_id}")
    payload: dict[str, Any] = msgspec.json.decode(plain)
    return payload


async def deliver_run(*, tenant_id: str, trace_id: str, deliveries: Sequence[PendingDelivery], now: datetime) -> None:
    """Delivers a run's message and document in order, right after it settled, and records both in one write.

    Raises BackendFailed when one did not arrive; the worker tries it again.
    """
    attempts: list[tuple[ClaimedDelivery, Attempt]] = []
    deadline = _attempt_deadline()
    for pending in deliveries:
        claimed = ClaimedDelivery(pending.id, tenant_id, trace_id, pending.kind, 0, now, pending.payload)
        attempt = await _attempt(claimed, deadline)
        attempts.append((claimed, attempt))
        if not attempt.ok:
            break
    await _record(tenant_id, attempts, utc_now())
    if attempts and not attempt.ok:
        raise BackendFailed(NOT_ACCEPTED, details={"reason": attempt.error})


async def deliver_due(*, now: datetime, limit: int = PARALLEL) -> int:
    """Claims what is due and attempts it, a run's deliveries in order; returns how many were attempted."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    claimed = await writer.submit(lambda batch: _claim(batch, now, limit), alone=True)

    async def deliver_one(delivery: ClaimedDelivery) -> None:
        attempt = await _attempt(delivery, _attempt_deadline())
        await _record(delivery.tenant_id, [(delivery, attempt)], now + timedelta(seconds=loop.time() - began))

    await asyncio.gather(*map(deliver_one, claimed))
    return len(claimed)


async def pending_of(*, tenant_id: str, trace_id: str) -> int:
    """The number of a run's backend writes that have not arrived yet."""
    sql = (
        "SELECT COUNT(*) FROM outbox WHERE tenant_id = %s AND trace_id = %s"
        " AND status <> 'delivered' AND kind <> 'webhook'"
    )
    row = await writer.submit(lambda batch: batch.fetch_one(sql, (tenant_id, trace_id)))
    return int(row[0]) if row else 0


def _claim(batch: Batch, now: datetime, limit: int) -> list[ClaimedDelivery]:
    claimed = []
    for row in batch.fetch_all(_DUE, (now, limit)):
        taken = batch.execute(
            "UPDATE outbox SET next_attempt_at = %s WHERE id = %s AND status = 'pending' AND next_attempt_at <= %s",
            (now + _claim_time(), row[0], now),
        )
        if taken:
            delivery = ClaimedDelivery(row[0], row[1], row[2], row[3], row[5], from_row(row[6]), {})
            try:
                claimed.append(replace(delivery, payload=_unseal(row[7], row[1], row[0])))
            except SealBroken:
                # Only a person can help, and the other deliveries must not wait for that.
                failed = Attempt(False, error="The stored delivery cannot be decrypted.", retryable=False)
                _mark_failed(batch, delivery, failed, now)
    return claimed


def _attempt_seconds() -> float:
    return min(LONGEST_ATTEMPT, float(settings.CLASPER_RUN_TIMEOUT_MS) / 1000)


def _attempt_deadline() -> float:
    return asyncio.get_running_loop().time() + _attempt_seconds()


def _claim_time() -> timedelta:
    """Longer than any attempt, so that no other process claims a delivery that is being attempted."""
    return timedelta(seconds=1.5 * _attempt_seconds())


async def _attempt(delivery: ClaimedDelivery, deadline: float) -> Attempt:
    try:
        if delivery.kind != "webhook":
            return await _attempt_backend(delivery, deadline)
        async with asyncio.timeout_at(deadline):
            return await _attempt_webhook(delivery)
    except TimeoutError:
        return Attempt(False, error="no answer in time")
    except ClasperError as error:
        return Attempt(False, error=error.message, retry_after=error.retry_after)
    except Exception:
        logger.exception(
            "a delivery failed unexpectedly", extra={"delivery": delivery.id, "trace_id": delivery.trace_id}
        )
        return Attempt(False, error="unexpected failure")


async def _attempt_backend(delivery: ClaimedDelivery, deadline: float) -> Attempt:
    payload = delivery.payload
    caller = Caller(**payload["caller"])
    common = {"task_id": payload["task_id"], "content": payload["content"], "idempotency_key": payload["key"]}
    if delivery.kind == "message":
        external = await control_plane().post_message(caller, **common, deadline=deadline)
    else:
        external = await control_plane().post_document(
            caller, **common, title=payload["title"], doc_type=payload["doc_type"], deadline=deadline
        )
    return Attempt(True, external)


async def _attempt_webhook(delivery: ClaimedDelivery) -> Attempt:
    payload = delivery.payload
    try:
        await deliver(
            payload["url"],
            payload["body"].encode(),
            secret=payload["secret"],
            headers=payload["headers"],
            delivery_id=delivery.id,
            now=utc_now(),
        )
    except WebhookFailed as error:
        return Attempt(False, error=error.reason, retryable=error.retryable)
    return Attempt(True)


async def _record(tenant_id: str, attempts: Sequence[tuple[ClaimedDelivery, Attempt]], now: datetime) -> None:
    def write(batch: Batch) -> None:
        for delivery, attempt in attempts:
            if attempt.ok:
                _mark_delivered(batch, delivery, attempt)
            else:
                _mark_failed(batch, delivery, attempt, now)

    await writer.submit(write, key=tenant_id)


def _mark_delivered(batch: Batch, delivery: ClaimedDelivery, attempt: Attempt) -> None:
    """Keeps the row as a receipt, without the sealed original."""
    batch.queue(
        "UPDATE outbox SET status = 'delivered', attempts = attempts + 1, sealed = %s, last_error = '' WHERE id = %s",
        (b"", delivery.id),
    )
    if delivery.kind == "message":
        link_delivered(batch, tenant_id=delivery.tenant_id, trace_id=delivery.trace_id, message_id=attempt.external_id)
    elif delivery.kind == "document":
        link_delivered(batch, tenant_id=delivery.tenant_id, trace_id=delivery.trace_id, document_id=attempt.external_id)


def _mark_failed(batch: Batch, delivery: ClaimedDelivery, attempt: Attempt, now: datetime) -> None:
    tries = delivery.attempts + 1
    wait = None
    if attempt.retryable:
        wait = wait_before_retry(
            kind=delivery.kind,
            attempts=tries,
            age=now - delivery.created_at,
            base=timedelta(milliseconds=settings.CLASPER_OUTBOX_RETRY_MS),
            retry_after=attempt.retry_after,
        )
    error = redact_text(attempt.error)[:256]
    batch.execute(
        "UPDATE outbox SET status = %s, attempts = %s, next_attempt_at = %s, last_error = %s"
        " WHERE id = %s AND status = 'pending'",
        ("pending" if wait else "dead", tries, now + (wait or timedelta(0)), error, delivery.id),
    )
    if not wait:
        record_audit(
            batch,
            tenant_id=delivery.tenant_id,
            event_type="delivery.dead",
            actor="system:outbox",
            now=now,
            trace_id=delivery.trace_id,
            details={"kind": delivery.kind, "attempts": tries, "reason": error},
        )


def retry_deliveries(*, ids: Sequence[str], actor: str, now: datetime) -> int:
    """Makes dead or pending deliveries due at once, audits each as `delivery.retry`, and returns their number."""
    count = 0
    with atomic_batch() as batch:
        for delivery_id in ids:
            row = batch.fetch_one(
                "UPDATE outbox SET status = 'pending', next_attempt_at = %s"
                " WHERE id = %s AND status IN ('pending', 'dead') RETURNING tenant_id, trace_id, kind",
                (now, delivery_id),
            )
            if row is not None:
                tenant_id, trace_id, kind = row
                record_audit(
                    batch,
                    tenant_id=tenant_id,
                    event_type="delivery.retry",
                    actor=actor,
                    now=now,
                    trace_id=trace_id,
                    details={"kind": kind},
                )
                count += 1
    return count
