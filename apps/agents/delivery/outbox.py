"""The outbox: what runs owe the outside is a row first, and is delivered from the row.

A run delivers its own message and document right after settling; the worker (in process, `manage.py worker`, or Celery)
does the webhooks and whatever did not arrive. Two of them never deliver the same row at once: a delivery is claimed by
moving its `next_attempt_at`, and a claim whose process died expires by itself. Idempotency keys make the rare double
delivery harmless at the backend.
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

from apps.agents.domain.delivery import WEBHOOK_POSITION, DeliveryKind, Owed, WebhookTarget, wait_before_retry
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
"""Seconds that an attempt may take, and that a run waits for the backend to take its message and document before it
answers 502 and leaves the rest to the worker. Where runs must be quicker (CLASPER_RUN_TIMEOUT_MS), so must attempts."""

PARALLEL = 32
"""Deliveries that are claimed and attempted together; none waits for its turn while its claim runs out."""

_INSERT = """INSERT INTO outbox (id, tenant_id, trace_id, kind, position, status, attempts, created_at, next_attempt_at,
 last_error, sealed) VALUES (%s, %s, %s, %s, %s, %s, 0, %s, %s, '', %s)"""

_DUE = """SELECT o.id, o.tenant_id, o.trace_id, o.kind, o.position, o.attempts, o.created_at, o.sealed FROM outbox o
 WHERE o.status = 'pending' AND o.next_attempt_at <= %s AND (o.kind = 'webhook' OR NOT EXISTS (
 SELECT 1 FROM outbox e WHERE e.tenant_id = o.tenant_id AND e.trace_id = o.trace_id AND e.position < o.position
 AND e.status <> 'delivered' AND e.kind <> 'webhook')) ORDER BY o.next_attempt_at LIMIT %s"""


@dataclass(frozen=True, slots=True)
class Due:
    """A claimed row."""

    id: str
    tenant_id: str
    trace_id: str
    kind: DeliveryKind
    attempts: int
    created_at: datetime
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one attempt went; `external_id` is the backend's id of what was made."""

    ok: bool
    external_id: str = ""
    error: str = ""
    retryable: bool = True
    retry_after: float | None = None


def sealed_row(owed: Owed, *, tenant_id: str, trace_id: str, now: datetime) -> tuple[Any, ...]:
    """The row of a backend write. The run delivers it itself, so the worker leaves it alone for a while."""
    sealed = _seal(owed.payload, tenant_id, owed.id)
    return (owed.id, tenant_id, trace_id, owed.kind, owed.position, "pending", now, now + _claim_time(), sealed)


def enqueue(batch: Batch, rows: Iterable[tuple[Any, ...]]) -> None:
    """Part of a write: what the run owes, in the transaction that settles it."""
    for row in rows:
        batch.queue(_INSERT, row)


def held_webhook_row(target: WebhookTarget, *, tenant_id: str, trace_id: str, now: datetime) -> tuple[Any, ...]:
    """The row, named like the run, that keeps where to report while it is going, so that a crash is reported too."""
    sealed = _seal(asdict(target), tenant_id, trace_id)
    return (trace_id, tenant_id, trace_id, "webhook", WEBHOOK_POSITION, "held", now, now, sealed)


def release_webhook(
    batch: Batch, target: WebhookTarget, body: Mapping[str, Any], *, tenant_id: str, trace_id: str, now: datetime
) -> None:
    """The run has ended, its report is due. Its texts are redacted: a webhook is storage somewhere else."""
    clean = {name: redact_text(text) if name in ("response", "error") else text for name, text in body.items()}
    report = {**asdict(target), "body": encode_payload(clean).decode()}
    batch.queue(
        "UPDATE outbox SET status = 'pending', next_attempt_at = %s, sealed = %s"
        " WHERE tenant_id = %s AND id = %s AND status = 'held'",
        (now, _seal(report, tenant_id, trace_id), tenant_id, trace_id),
    )


def held_webhook(batch: Batch, *, tenant_id: str, trace_id: str) -> WebhookTarget | None:
    """Where a run wanted its end reported, if it did and has not yet. None when it does not open any more."""
    row = batch.fetch_one(
        "SELECT sealed FROM outbox WHERE tenant_id = %s AND id = %s AND status = 'held'", (tenant_id, trace_id)
    )
    if row is None:
        return None
    try:
        return WebhookTarget(**_unseal(row[0], tenant_id, trace_id))
    except SealBroken:
        return None


def _seal(payload: Mapping[str, Any], tenant_id: str, row_id: str) -> bytes:
    return seal(msgspec.json.encode(payload), key=settings.SEALING_KEY, bound_to=f"outbox:{tenant_id}:{row_id}")


def _unseal(sealed: bytes, tenant_id: str, row_id: str) -> dict[str, Any]:
    plain = unseal(sealed, key=settings.SEALING_KEY, bound_to=f"outbox:{tenant_id}:{row_id}")
    payload: dict[str, Any] = msgspec.json.decode(plain)
    return payload


async def deliver_run(*, tenant_id: str, trace_id: str, owed: Sequence[Owed], now: datetime) -> None:
    """Delivers a run's message and document in order, right after it settled, and marks them in one write.

    Raises BackendFailed when one did not arrive; the worker keeps trying it.
    """
    attempts: list[tuple[Due, Attempt]] = []
    deadline = _attempt_deadline()
    for each in owed:
        due = Due(each.id, tenant_id, trace_id, each.kind, 0, now, each.payload)
        attempt = await _attempt(due, deadline)
        attempts.append((due, attempt))
        if not attempt.ok:
            break
    await _record(tenant_id, attempts, utc_now())
    failed = attempts[-1][1] if attempts else None
    if failed is not None and not failed.ok:
        raise BackendFailed(
            "The answer is stored, but the control plane did not take it yet; it will be delivered later.",
            details={"reason": failed.error},
        )


async def deliver_due(*, now: datetime, limit: int = PARALLEL) -> int:
    """Claims what is due and attempts it, each run's deliveries in order; gives the number attempted."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    due = await writer.submit(lambda batch: _claim(batch, now, limit), alone=True)

    async def one(each: Due) -> None:
        attempt = await _attempt(each, _attempt_deadline())
        await _record(each.tenant_id, [(each, attempt)], now + timedelta(seconds=loop.time() - began))

    await asyncio.gather(*(one(each) for each in due))
    return len(due)


async def pending_of(*, tenant_id: str, trace_id: str) -> int:
    """How many of a run's backend writes have not arrived yet."""
    sql = (
        "SELECT COUNT(*) FROM outbox WHERE tenant_id = %s AND trace_id = %s"
        " AND status <> 'delivered' AND kind <> 'webhook'"
    )
    row = await writer.submit(lambda batch: batch.fetch_one(sql, (tenant_id, trace_id)))
    return int(row[0]) if row else 0


def _claim(batch: Batch, now: datetime, limit: int) -> list[Due]:
    claimed = []
    for row in batch.fetch_all(_DUE, (now, limit)):
        taken = batch.execute(
            "UPDATE outbox SET next_attempt_at = %s WHERE id = %s AND status = 'pending' AND next_attempt_at <= %s",
            (now + _claim_time(), row[0], now),
        )
        if taken:
            due = Due(row[0], row[1], row[2], row[3], row[5], from_row(row[6]), {})
            try:
                payload = _unseal(row[7], row[1], row[0])
            except SealBroken:
                # Only a person can help, and the others must not wait for that.
                _mark_failed(
                    batch, due, Attempt(False, error="The sealed delivery does not open.", retryable=False), now
                )
            else:
                claimed.append(replace(due, payload=payload))
    return claimed


def _attempt_seconds() -> float:
    return min(LONGEST_ATTEMPT, float(settings.CLASPER_RUN_TIMEOUT_MS) / 1000)


def _attempt_deadline() -> float:
    return asyncio.get_running_loop().time() + _attempt_seconds()


def _claim_time() -> timedelta:
    """Longer than any attempt, so that a live one is never doubled."""
    return timedelta(seconds=1.5 * _attempt_seconds())


async def _attempt(due: Due, deadline: float) -> Attempt:
    try:
        if due.kind != "webhook":
            return await _attempt_backend(due, deadline)
        async with asyncio.timeout_at(deadline):
            return await _attempt_webhook(due)
    except TimeoutError:
        return Attempt(False, error="no answer in time")
    except ClasperError as error:
        return Attempt(False, error=error.message, retry_after=error.retry_after)
    except Exception:
        logger.exception("a delivery failed unexpectedly", extra={"delivery": due.id, "trace_id": due.trace_id})
        return Attempt(False, error="unexpected failure")


async def _attempt_backend(due: Due, deadline: float) -> Attempt:
    payload = due.payload
    caller = Caller(**payload["caller"])
    common = {"task_id": payload["task_id"], "content": payload["content"], "idempotency_key": payload["key"]}
    if due.kind == "message":
        external = await control_plane().post_message(caller, **common, deadline=deadline)
    else:
        external = await control_plane().post_document(
            caller, **common, title=payload["title"], doc_type=payload["doc_type"], deadline=deadline
        )
    return Attempt(True, external)


async def _attempt_webhook(due: Due) -> Attempt:
    payload = due.payload
    try:
        await deliver(
            payload["url"],
            payload["body"].encode(),
            secret=payload["secret"],
            headers=payload["headers"],
            delivery_id=due.id,
            now=utc_now(),
        )
    except WebhookFailed as error:
        return Attempt(False, error=error.reason, retryable=error.retryable)
    return Attempt(True)


async def _record(tenant_id: str, attempts: Sequence[tuple[Due, Attempt]], now: datetime) -> None:
    def job(batch: Batch) -> None:
        for due, attempt in attempts:
            if attempt.ok:
                _mark_delivered(batch, due, attempt)
            else:
                _mark_failed(batch, due, attempt, now)

    await writer.submit(job, key=tenant_id)


def _mark_delivered(batch: Batch, due: Due, attempt: Attempt) -> None:
    """The row stays as a receipt; the sealed original has served its purpose and goes."""
    batch.queue(
        "UPDATE outbox SET status = 'delivered', attempts = attempts + 1, sealed = %s, last_error = '' WHERE id = %s",
        (b"", due.id),
    )
    if due.kind == "message":
        link_delivered(batch, tenant_id=due.tenant_id, trace_id=due.trace_id, message_id=attempt.external_id)
    elif due.kind == "document":
        link_delivered(batch, tenant_id=due.tenant_id, trace_id=due.trace_id, document_id=attempt.external_id)


def _mark_failed(batch: Batch, due: Due, attempt: Attempt, now: datetime) -> None:
    tries = due.attempts + 1
    wait = wait_before_retry(
        kind=due.kind,
        attempts=tries,
        age=now - due.created_at,
        base=timedelta(milliseconds=settings.CLASPER_OUTBOX_RETRY_MS),
        retry_after=attempt.retry_after,
    )
    if not attempt.retryable:
        wait = None
    error = redact_text(attempt.error)[:256]
    batch.execute(
        "UPDATE outbox SET status = %s, attempts = %s, next_attempt_at = %s, last_error = %s"
        " WHERE id = %s AND status = 'pending'",
        ("pending" if wait else "dead", tries, now + (wait or timedelta(0)), error, due.id),
    )
    if wait is None:
        record_audit(
            batch,
            tenant_id=due.tenant_id,
            event_type="delivery.dead",
            actor="system:outbox",
            now=now,
            trace_id=due.trace_id,
            details={"kind": due.kind, "attempts": tries, "reason": error},
        )


def retry_deliveries(*, ids: Sequence[str], actor: str, now: datetime) -> int:
    """Makes dead or waiting deliveries due at once; each is audited as `delivery.retry`. Gives their number."""
    count = 0
    with atomic_batch() as batch:
        for each in ids:
            row = batch.fetch_one(
                "UPDATE outbox SET status = 'pending', next_attempt_at = %s"
                " WHERE id = %s AND status IN ('pending', 'dead') RETURNING tenant_id, trace_id, kind",
                (now, each),
            )
            if row is not None:
                record_audit(
                    batch,
                    tenant_id=row[0],
                    event_type="delivery.retry",
                    actor=actor,
                    now=now,
                    trace_id=row[1],
                    details={"kind": row[2]},
                )
                count += 1
    return count
