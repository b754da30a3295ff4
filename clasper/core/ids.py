"""Identifiers: UUIDv7 in canonical text form, so that ids sort by time of creation (RFC 9562)."""

from __future__ import annotations

import re

import uuid_utils

_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")


def new_id() -> str:
    """A new UUIDv7, 36 lower-case characters, increasing within a process."""
    return str(uuid_utils.uuid7())


def is_uuid(text: str) -> bool:
    """Whether `text` is a UUID in the canonical 8-4-4-4-12 form, any version."""
    return _UUID.fullmatch(text) is not None
