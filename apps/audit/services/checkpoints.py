"""Issues checkpoints of the audit log's chains, and verifies chains against them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from django.conf import settings

from apps.audit.domain.chain import START, ChainPoint, ChainReport, check_end, verify
from apps.audit.domain.checkpoint import Checkpoint, anchors_of, sign_checkpoint, signature_error
from apps.audit.queries import chain_end, chain_point, chain_rows
from apps.audit.services.reading import verify_chain
from apps.audit.services.recording import record_audit
from clasper.core.clock import iso
from clasper.core.db import atomic_batch
from clasper.core.errors import Conflict, NotFound, Unavailable
from clasper.core.signing import SigningKey, read_signing_key


def signing_key() -> SigningKey | None:
    """The key that signs checkpoints, or None when none is set."""
    text: str = settings.CLASPER_AUDIT_SIGNING_KEY
    return read_signing_key(text) if text else None


def trusted_keys() -> list[str]:
    """The public keys whose checkpoints are trusted unless the caller names others; without any, all are."""
    key = signing_key()
    return [] if key is None else [key.public_key]


def take_checkpoint(*, tenant_id: str, actor: str, now: datetime) -> Checkpoint:
    """A signed checkpoint of the chain's end (`""`: the platform's), recorded as `audit.checkpoint`.

    Raises Unavailable (`signing_key_missing`) when no key is set: an unsigned checkpoint would prove nothing. Raises
    NotFound for a chain without entries, and Conflict (`audit_chain_broken`) when the last entry does not verify.
    """
    key = signing_key()
    if key is None:
        raise Unavailable(
            "Checkpoints are signed, and there is no key: set CLASPER_AUDIT_SIGNING_KEY.", code="signing_key_missing"
        )
    point = _sound_end(tenant_id)
    with atomic_batch() as batch:
        details = {"seq": point.seq, "hash": point.hash}
        record_audit(batch, tenant_id=tenant_id, event_type="audit.checkpoint", actor=actor, now=now, details=details)
    return checkpoint_at(tenant_id, point, key=key, now=now)


def existing_chain(tenant_id: str) -> tuple[ChainPoint, int]:
    """The chain's head and the highest stored seq. Raises NotFound when there is neither."""
    head, last_stored_seq = chain_end(tenant_id)
    if not head.seq and not last_stored_seq:
        raise NotFound(f"There are no audit entries of {'this tenant' if tenant_id else 'the platform itself'}.")
    return head, last_stored_seq


def _sound_end(tenant_id: str) -> ChainPoint:
    """The chain's head. Raises Conflict unless its entry matches its hash, follows the previous one and is the last."""
    head, last_stored_seq = existing_chain(tenant_id)
    before = chain_point(tenant_id, head.seq - 1)
    report = verify(chain_rows(tenant_id, after=before.seq, up_to=head.seq), before)
    report = check_end(report, head=head, last_stored_seq=last_stored_seq)
    if not report.valid:
        raise Conflict(f"A broken chain gets no checkpoint: {report.reason}.", code="audit_chain_broken")
    return head


def checkpoint_at(tenant_id: str, point: ChainPoint, *, key: SigningKey, now: datetime) -> Checkpoint:
    """The signed statement that the tenant's chain goes through `point`."""
    return sign_checkpoint(tenant_id=tenant_id, point=point, created_at=iso(now), key=key)


def verify_against(
    *, tenant_id: str, checkpoints: Sequence[Checkpoint], trusted: Collection[str] | None = None
) -> ChainReport:
    """Verifies a tenant's chain, and that it goes through every one of these checkpoints of it.

    `trusted` are the public keys to trust; None means `trusted_keys()`. A checkpoint with a wrong signature or an
    untrusted key makes the report invalid without a bad seq: it says nothing about the chain.
    """
    trusted = trusted_keys() if trusted is None else trusted
    for checkpoint in checkpoints:
        error = signature_error(checkpoint, trusted=trusted)
        if error:
            return ChainReport(
                valid=False, checked=0, first_bad_seq=None, reason=error, last_seq=START.seq, last_hash=START.hash
            )
    return verify_chain(tenant_id=tenant_id, anchors=anchors_of(checkpoints))
