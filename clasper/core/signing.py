"""Ed25519 signatures (RFC 8032) by the key of the settings: reading the key, signing, checking.

Public keys (32 bytes) and signatures (64 bytes) are written in base64.
"""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

KEY_BYTES = 32
SIGNATURE_BYTES = 64


class SigningKey:
    """A private key that signs; only its public half can be read from it."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public_key = base64.b64encode(private.public_key().public_bytes_raw()).decode()

    def sign(self, message: bytes) -> str:
        return base64.b64encode(self._private.sign(message)).decode()


@lru_cache(maxsize=16)
def read_signing_key(text: str) -> SigningKey:
    """The key that a setting holds: PEM (PKCS 8, unencrypted), base64 of the 32 private bytes, or `@` and the path of a
    file with either. Raises ValueError, which says what was expected and never quotes what was found.
    """
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text()
        except (OSError, ValueError) as error:
            raise ValueError("names a file that cannot be read") from error
    text = text.replace("\\n", "\n").strip()
    try:
        if text.startswith("-----BEGIN"):
            private = load_pem_private_key(text.encode(), password=None)
        else:
            private = Ed25519PrivateKey.from_private_bytes(decode_bytes(text, KEY_BYTES))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise ValueError("must be an Ed25519 private key: PEM, base64 of 32 bytes, or @ and the path of such a file")
    return SigningKey(private)


def is_signed(message: bytes, *, public_key: str, signature: str) -> bool:
    """Whether the key's owner signed the message; False also for a malformed key or signature."""
    try:
        key = Ed25519PublicKey.from_public_bytes(decode_bytes(public_key, KEY_BYTES))
        key.verify(decode_bytes(signature, SIGNATURE_BYTES), message)
    except (ValueError, InvalidSignature):
        return False
    return True


def decode_bytes(text: str, length: int) -> bytes:
    """The bytes of a base64 text. Raises ValueError when it is not base64 of exactly `length` bytes."""
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not base64") from error
    if len(found) != length:
        raise ValueError(f"not {length} bytes")
    return found
