"""What the hash of an audit entry must be, as the documentation tells it; no code under test has a part in it."""

from __future__ import annotations

import hashlib
from typing import Any

import rfc8785


def entry_hash(**shown: Any) -> str:
    """Lower-case hex SHA-256 over the canonical JSON (RFC 8785) of what is shown of an entry, less `id` and `hash`."""
    return hashlib.sha256(rfc8785.dumps(shown)).hexdigest()
