"""Checkpoints: signed statements of where a tenant's audit chain ended, to be kept outside the database.

A chain that is consistent in itself may still have lost its end or have been rewritten. A checkpoint reveals that.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Annotated, Any

from msgspec.structs import replace

from apps.audit.domain.chain import GENESIS, Anchors, ChainPoint, ChainReport
from clasper.core.canonical import canonical_json
from clasper.core.clock import parse_iso
from clasper.core.schemas import Resource, about
from clasper.core.signing import KEY_BYTES, SIGNATURE_BYTES, SigningKey, decode_bytes, is_signed

MAX_SEQ = 2**53 - 1
MAX_TENANT_CHARS = 128

_HASH = re.compile(r"[0-9a-f]{64}")


class Checkpoint(Resource, frozen=True, kw_only=True):
    """A chain's end as it was at `created_at`; seq 0 and 64 zeros for a chain without entries."""

    tenant_id: Annotated[str, about("Empty for the platform's own chain.", example="acme")]
    seq: Annotated[int, about("The chain's last entry.", example=5)]
    hash: Annotated[str, about("That entry's hash.", example="f" * 64)]
    created_at: Annotated[str, about(example="2026-02-01T19:30:00.000Z", extra_json_schema={"format": "date-time"})]
    public_key: Annotated[str, about("The Ed25519 public key, base64 of 32 bytes.", example=f"{'A' * 43}=")]
    signature: Annotated[
        str,
        about(
            "Base64. Covers the canonical JSON (RFC 8785) of tenant_id, seq, hash and created_at.",
            example=f"{'A' * 86}==",
        ),
    ]


def sign_checkpoint(*, tenant_id: str, point: ChainPoint, created_at: str, key: SigningKey) -> Checkpoint:
    """The checkpoint of a place in a tenant's chain."""
    statement = _statement(tenant_id, point.seq, point.hash, created_at)
    return Checkpoint(
        tenant_id=tenant_id,
        seq=point.seq,
        hash=point.hash,
        created_at=created_at,
        public_key=key.public_key,
        signature=key.sign(statement),
    )


def read_checkpoint(value: Any) -> Checkpoint:
    """The checkpoint in a JSON value, bare or under the name `checkpoint`. Raises ValueError that names every error."""
    if isinstance(value, dict) and isinstance(value.get("checkpoint"), dict):
        value = value["checkpoint"]
    errors = checkpoint_errors(value)
    if errors:
        raise ValueError("; ".join(errors))
    return Checkpoint(**{name: value[name] for name in Checkpoint.__struct_fields__})


def checkpoint_errors(value: Any) -> list[str]:
    """What keeps a JSON value from being a checkpoint; whether it is signed is another question."""
    if not isinstance(value, dict):
        return ["a checkpoint is a JSON object"]
    seq = value.get("seq")
    checks = {
        f"tenant_id must be a text of at most {MAX_TENANT_CHARS} characters": _is_tenant(value.get("tenant_id")),
        f"seq must be an integer from 0 to {MAX_SEQ}": type(seq) is int and 0 <= seq <= MAX_SEQ,
        "hash must be 64 lower-case hexadecimal digits": _is_hash(value.get("hash"), seq),
        "created_at must be an ISO 8601 time": _is_instant(value.get("created_at")),
        f"public_key must be base64 of {KEY_BYTES} bytes": _is_base64(value.get("public_key"), KEY_BYTES),
        f"signature must be base64 of {SIGNATURE_BYTES} bytes": _is_base64(value.get("signature"), SIGNATURE_BYTES),
    }
    return [error for error, passed in checks.items() if not passed]


def signature_error(checkpoint: Checkpoint, *, trusted: Collection[str]) -> str:
    """Why the checkpoint proves nothing, or "". `trusted` are public keys; without any, every key is accepted."""
    if trusted and checkpoint.public_key not in trusted:
        return f"the checkpoint of seq {checkpoint.seq} is signed by a key that is not trusted: {checkpoint.public_key}"
    statement = _statement(checkpoint.tenant_id, checkpoint.seq, checkpoint.hash, checkpoint.created_at)
    if not is_signed(statement, public_key=checkpoint.public_key, signature=checkpoint.signature):
        return f"the checkpoint of seq {checkpoint.seq} does not match its signature"
    return ""


def anchors_of(checkpoints: Iterable[Checkpoint]) -> dict[int, set[str]]:
    """The places that a chain must go through, from checkpoints of one tenant."""
    anchors: dict[int, set[str]] = {}
    for checkpoint in checkpoints:
        anchors.setdefault(checkpoint.seq, set()).add(checkpoint.hash)
    return anchors


def check_anchors(report: ChainReport, anchors: Anchors) -> ChainReport:
    """The report of a whole chain, which goes through the anchors as far as it reaches, compared with those beyond."""
    last = max(anchors, default=0)
    if not report.valid or not last:
        return report
    if last > report.last_seq:
        missing = report.last_seq + 1
        reason = f"entry {missing} is missing: a checkpoint was made at {last}"
        return replace(report, valid=False, first_bad_seq=missing, reason=reason)
    return replace(report, checkpoint_seq=last)


def _statement(tenant_id: str, seq: int, digest: str, created_at: str) -> bytes:
    return canonical_json({"tenant_id": tenant_id, "seq": seq, "hash": digest, "created_at": created_at})


def _is_tenant(value: Any) -> bool:
    if not isinstance(value, str) or len(value) > MAX_TENANT_CHARS or "\x00" in value:
        return False
    try:
        return value.encode() is not None
    except UnicodeEncodeError:  # half a surrogate pair, which no database stores
        return False


def _is_hash(value: Any, seq: Any) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None and (seq != 0 or value == GENESIS)


def _is_instant(value: Any) -> bool:
    try:
        return isinstance(value, str) and len(value) <= 64 and bool(parse_iso(value))
    except (ValueError, OverflowError):
        return False


def _is_base64(value: Any, length: int) -> bool:
    try:
        return isinstance(value, str) and len(decode_bytes(value, length)) == length
    except ValueError:
        return False
