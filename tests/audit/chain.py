"""What the hash of an audit entry must be, as documented and without the code under test; a key to sign with."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import rfc8785

SIGNING_KEY = base64.b64encode(bytes(range(32))).decode()
"""A private key for checkpoints."""


def entry_hash(**shown: Any) -> str:
    """Lower-case hex SHA-256 over the canonical JSON (RFC 8785) of what is shown of an entry, less `id` and `hash`."""
    return hashlib.sha256(rfc8785.dumps(shown)).hexdigest()
