"""Encryption of what is stored unredacted until it is delivered (outbox rows, stored responses).

AES-256-GCM with a key outside the database; the row's identity is bound in as associated data, so that a sealed value
moved to another row cannot be decrypted.
"""

from __future__ import annotations

import os
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE_BYTES = 12


class SealBroken(Exception):
    """The value was sealed with another key or for another row, or was changed."""


@lru_cache(maxsize=16)
def derive_key(secret: str, purpose: str) -> bytes:
    """32 key bytes for one purpose from one secret (HKDF-SHA256, RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose.encode()).derive(secret.encode())


@lru_cache(maxsize=16)
def _cipher(key: bytes) -> AESGCM:
    return AESGCM(key)


def seal(plain: bytes, *, key: bytes, bound_to: str) -> bytes:
    """Nonce and ciphertext of `plain`, to be decrypted only with `key` and the same `bound_to`."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + _cipher(key).encrypt(nonce, plain, bound_to.encode())


def unseal(sealed: bytes, *, key: bytes, bound_to: str) -> bytes:
    """The plain bytes. Raises SealBroken when key, row or bytes are not those of `seal`."""
    sealed = bytes(sealed)
    try:
        return _cipher(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to.encode())
    except (InvalidTag, ValueError) as error:
        raise SealBroken("a sealed value cannot be decrypted with the current key") from error
