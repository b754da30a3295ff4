"""The clock and how instants are written: ISO 8601 UTC with milliseconds and `Z`.

Entry points read the clock once and pass `now` down; services and the domain never read it themselves. What outlasts a
request takes a `Clock`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta

Clock = Callable[[], datetime]
"""Returns the current instant, as `utc_now` does."""

_WEEK = re.compile(r"\d{4}-?W\d\d")


def utc_now() -> datetime:
    """The current instant, in UTC, cut to milliseconds, the resolution that is stored and shown."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def iso(instant: datetime) -> str:
    """`2026-02-01T19:30:00.000Z`."""
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def parse_iso(text: str, *, last: bool = False) -> datetime:
    """The instant that an ISO 8601 text names; without a zone it is read as UTC.

    A bare day or week means its first instant, or with `last` its last one. Raises ValueError on anything else, and
    OverflowError where UTC lies outside the years 1 to 9999.
    """
    instant = datetime.fromisoformat(text)
    if last:
        with suppress(ValueError):
            date.fromisoformat(text)
            days = 7 if _WEEK.fullmatch(text) else 1
            instant += timedelta(days=days, microseconds=-1)
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)


def from_row(value: datetime) -> datetime:
    """The instant that a raw query returned: SQLite's driver leaves out the zone, which is always UTC."""
    return value if value.tzinfo else value.replace(tzinfo=UTC)
