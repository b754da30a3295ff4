"""The pure rules of budgets: periods, terms, and what an amount would do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.governance.domain.budget import (
    PERIODS,
    Balance,
    Terms,
    check_spend,
    last_instant,
    period_bounds,
    soft_warning,
    terms_of,
)
from clasper.core.errors import InvalidRequest
from clasper.core.money import MAX_AMOUNT, NanoUSD, from_usd


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("period", "now", "start", "end"),
    [
        ("daily", "2026-02-10T12:00", "2026-02-10", "2026-02-11"),
        ("daily", "2026-12-31T23:59:59.999", "2026-12-31", "2027-01-01"),
        ("daily", "2026-02-10T00:00", "2026-02-10", "2026-02-11"),
        ("weekly", "2026-02-10T12:00", "2026-02-09", "2026-02-16"),
        ("weekly", "2026-02-09T00:00", "2026-02-09", "2026-02-16"),
        ("weekly", "2026-02-08T23:59", "2026-02-02", "2026-02-09"),
        ("weekly", "2026-01-01T00:00", "2025-12-29", "2026-01-05"),
        ("monthly", "2026-02-10T12:00", "2026-02-01", "2026-03-01"),
        ("monthly", "2028-02-29T12:00", "2028-02-01", "2028-03-01"),
        ("monthly", "2026-12-31T23:59", "2026-12-01", "2027-01-01"),
    ],
)
def test_periods_are_utc(period: str, now: str, start: str, end: str) -> None:
    assert period_bounds(period, at(now)) == (at(start), at(end))


def test_another_zone_is_converted() -> None:
    tokyo_morning = datetime(2026, 3, 1, 8, tzinfo=timezone(timedelta(hours=9)))
    assert period_bounds("monthly", tokyo_morning) == (at("2026-02-01"), at("2026-03-01"))


def test_the_end_is_shown_as_the_last_millisecond() -> None:
    assert last_instant(at("2026-03-01")) == at("2026-02-28T23:59:59.999")


def test_an_unknown_period_is_refused() -> None:
    with pytest.raises(ValueError, match="hourly"):
        period_bounds("hourly", at("2026-02-10"))


@given(
    st.sampled_from(PERIODS),
    st.floats(0, 4e9).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
)
def test_periods_follow_each_other_without_gap(period: str, now: datetime) -> None:
    start, end = period_bounds(period, now)
    assert start <= now < end
    assert period_bounds(period, end)[0] == end
    assert period_bounds(period, last_instant(end)) == (start, end)


def test_the_defaults_of_terms() -> None:
    limit, hard = from_usd(100), from_usd(50)
    assert terms_of(limit=limit) == Terms(limit, from_usd(80), limit, "monthly")
    assert terms_of(limit=limit, hard_limit=hard) == Terms(limit, from_usd(40), hard, "monthly")
    assert terms_of(limit=limit, hard_limit=None) == Terms(limit, from_usd(80), None, "monthly")
    assert terms_of(limit=limit, soft_limit=limit, period="daily") == Terms(limit, limit, limit, "daily")


def test_all_errors_at_once() -> None:
    with pytest.raises(InvalidRequest) as raised:
        terms_of(limit=NanoUSD(0), period="hourly", soft_limit=from_usd(10), hard_limit=from_usd(5))
    assert set(raised.value.details["fieldErrors"]) == {"limit", "period", "soft_limit"}


@pytest.mark.parametrize("amount", [0, -1, MAX_AMOUNT + 1])
def test_amounts_out_of_range(amount: int) -> None:
    with pytest.raises(InvalidRequest) as raised:
        terms_of(limit=NanoUSD(amount), soft_limit=NanoUSD(amount), hard_limit=NanoUSD(amount))
    assert set(raised.value.details["fieldErrors"]) == {"limit", "soft_limit", "hard_limit"}


HUNDRED = terms_of(limit=from_usd(100), soft_limit=from_usd(75))
WATCHED = terms_of(limit=from_usd(100), hard_limit=None)


@pytest.mark.parametrize(
    ("terms", "spent", "reserved", "amount", "allowed", "remaining", "after", "soft"),
    [
        (HUNDRED, "42.5", "0", "5", True, "57.5", "52.5", False),
        (HUNDRED, "97.5", "0", "5", False, "2.5", "-2.5", True),
        (HUNDRED, "95", "0", "5", True, "5", "0", True),
        (HUNDRED, "95", "0.000000001", "5", False, "4.999999999", "-0.000000001", True),
        (HUNDRED, "70", "0", "5", True, "30", "25", True),
        (HUNDRED, "120", "0", "0", True, "-20", "-20", True),
        (WATCHED, "120", "0", "5", True, "-20", "-25", True),
    ],
)
def test_what_an_amount_would_do(
    terms: Terms, spent: str, reserved: str, amount: str, allowed: bool, remaining: str, after: str, soft: bool
) -> None:
    check = check_spend(terms, Balance(from_usd(spent), from_usd(reserved)), from_usd(amount))
    assert (check.allowed, check.crosses_soft) == (allowed, soft)
    assert (check.remaining, check.remaining_after) == (from_usd(remaining), from_usd(after))
    assert "75.00 USD" in soft_warning(HUNDRED)
