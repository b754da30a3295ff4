"""Canonical JSON (RFC 8785, JCS): one byte sequence for one value, the basis of every hash we store."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import rfc8785

_encoder = msgspec.json.Encoder(order="sorted")

_MAX_SAFE_INTEGER = 2**53 - 1
_MIN_PLAIN_FLOAT = 1e-4


def canonical_json(value: Any) -> bytes:
    """RFC 8785 bytes of a JSON value.

    Values with ASCII keys, safe integers and floats of ordinary size take the fast encoder, whose output is the same
    bytes (proved by test); everything else takes the reference library. Raises ValueError for NaN, infinities and
    integers beyond ±(2⁵³−1), which JSON cannot carry exactly.
    """
    if _is_plain(value):
        return _encoder.encode(value)
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise ValueError(str(error)) from error


def digest(value: Any) -> str:
    """Lower-case hex SHA-256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is float:
        # Where Python's shortest digits need no exponent, ECMAScript writes the same ones.
        return bool(_MIN_PLAIN_FLOAT <= abs(value) < _MAX_SAFE_INTEGER) and not value.is_integer()
    if kind is int:
        return bool(-_MAX_SAFE_INTEGER <= value <= _MAX_SAFE_INTEGER)
    if kind is dict:
        return all(type(key) is str and key.isascii() and _is_plain(item) for key, item in value.items())
    if kind is list:
        return all(map(_is_plain, value))
    return False
