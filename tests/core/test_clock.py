from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clasper.core.clock import iso, parse_iso, utc_now


def test_now_is_utc_in_milliseconds() -> None:
    before, now, after = datetime.now(UTC), utc_now(), datetime.now(UTC)
    assert now.tzinfo is UTC
    assert now.microsecond % 1000 == 0
    assert before - timedelta(milliseconds=1) < now <= after


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (datetime(2026, 2, 1, 19, 30, tzinfo=UTC), "2026-02-01T19:30:00.000Z"),
        (datetime(2026, 2, 1, 19, 30, 0, 999_999, tzinfo=UTC), "2026-02-01T19:30:00.999Z"),
        (datetime(2026, 2, 1, 19, 30, tzinfo=timezone(timedelta(hours=2))), "2026-02-01T17:30:00.000Z"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00.000Z"),
    ],
)
def test_how_an_instant_is_written(instant: datetime, text: str) -> None:
    assert iso(instant) == text


@pytest.mark.parametrize(
    "text",
    [
        *("2026-02-01T19:30:00.000Z", "2026-02-01T19:30:00Z", "2026-02-01T20:30:00+01:00", "2026-02-01T19:30:00"),
        "2026-02-01 19:30:00",
    ],
)
def test_how_an_instant_may_be_read(text: str) -> None:
    assert parse_iso(text) == datetime(2026, 2, 1, 19, 30, tzinfo=UTC)
    assert parse_iso(text).tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("2026-11-25", datetime(2026, 11, 25, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("20261125", datetime(2026, 11, 25, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("2026-W48-3", datetime(2026, 11, 25, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("2026-W48", datetime(2026, 11, 29, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("2026W48", datetime(2026, 11, 29, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("2026-11-25T00", datetime(2026, 11, 25, tzinfo=UTC)),
        ("20261125T00Z", datetime(2026, 11, 25, tzinfo=UTC)),
    ],
)
def test_the_last_instant_of_what_is_named(text: str, last: datetime) -> None:
    assert parse_iso(text, last=True) == last


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "2026-02-01T25:00:00Z", "1770000000", "\x00"])
def test_what_is_no_instant(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_iso(text)


@given(st.datetimes(timezones=st.just(UTC)))
def test_there_and_back(instant: datetime) -> None:
    kept = instant.replace(microsecond=instant.microsecond // 1000 * 1000)
    assert parse_iso(iso(instant)) == kept
