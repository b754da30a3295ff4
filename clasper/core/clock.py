"""The clock and how instants are written: ISO 8601 UTC with milliseconds and `Z`.

Doors read the clock once and hand `now` down; rules and verbs never look at it themselves.
"""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The current instant, in UTC, cut to milliseconds, the resolution that is stored and shown."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def iso(instant: datetime) -> str:
    """`2026-02-01T19:30:00.000Z`."""
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def parse_iso(text: str) -> datetime:
    """The instant that an ISO 8601 text names; without a zone it is read as UTC. Raises ValueError on anything else."""
    instant = datetime.fromisoformat(text)
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)


def from_row(value: datetime) -> datetime:
    """The instant that a raw query gave: SQLite's driver leaves its zone out, which is always UTC."""
    return value if value.tzinfo else value.replace(tzinfo=UTC)
