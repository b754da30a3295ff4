"""A budget's terms and periods, and what an amount would do to it.

Amounts are nano-USD. A period runs from its start up to, but not including, its end; all instants are UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from clasper.core.errors import InvalidRequest
from clasper.core.money import MAX_AMOUNT, NANO_PER_USD, NanoUSD, usd
from clasper.core.schemas import Errors

Period = Literal["daily", "weekly", "monthly"]
PERIODS: tuple[str, ...] = get_args(Period)
DEFAULT_PERIOD: Period = "monthly"

SOFT_PERCENT = 80
"""Where the soft limit lies when none is named: at four fifths of what may be spent."""

HardLimit = NanoUSD | Literal["limit"] | None
"""An amount, "limit" for the same as the limit, or None to watch spending without ever refusing it."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a tenant may spend in each period. `hard_limit` None only watches."""

    limit: NanoUSD
    soft_limit: NanoUSD
    hard_limit: NanoUSD | None
    period: Period


@dataclass(frozen=True, slots=True)
class Balance:
    """How much of a period's budget is used: settled spend, and what is reserved for runs under way."""

    spent: NanoUSD
    reserved: NanoUSD

    @property
    def committed(self) -> int:
        return self.spent + self.reserved


@dataclass(frozen=True, slots=True)
class SpendCheck:
    """What an amount would do. `remaining` and `remaining_after` are what the hard limit (or the limit, without a hard
    one) leaves before and after it; `crosses_soft` says that the soft limit is reached by then."""

    allowed: bool
    remaining: NanoUSD
    remaining_after: NanoUSD
    crosses_soft: bool


def terms_of(
    *,
    limit: NanoUSD,
    period: Period = DEFAULT_PERIOD,
    soft_limit: NanoUSD | None = None,
    hard_limit: HardLimit = "limit",
) -> Terms:
    """The terms with their defaults: hard limit = limit, soft limit = 80 % of the hard limit (or of the limit).

    Raises InvalidRequest with every error at once.
    """
    errors = terms_errors({"limit": limit, "period": period, "soft_limit": soft_limit, "hard_limit": hard_limit})
    if errors:
        raise InvalidRequest(field_errors=errors)
    hard = limit if hard_limit == "limit" else hard_limit
    if soft_limit is None:
        soft_limit = NanoUSD((limit if hard is None else hard) * SOFT_PERCENT // 100)
    return Terms(limit, soft_limit, hard, period)


def terms_errors(terms: Mapping[str, NanoUSD | str | None]) -> Errors:
    """What is wrong with the terms that are present, by field; `limit` and `period` may be missing from the mapping."""
    errors: Errors = {}
    amounts = {field: terms.get(field) for field in ("limit", "soft_limit", "hard_limit")}
    if amounts["hard_limit"] == "limit":
        amounts["hard_limit"] = amounts["limit"]
    for field, amount in amounts.items():
        if isinstance(amount, int) and not 0 < amount <= MAX_AMOUNT and terms.get(field) != "limit":
            errors[field] = [f"Must be more than 0 and at most {MAX_AMOUNT // NANO_PER_USD} USD."]
    soft, hard = amounts["soft_limit"], amounts["hard_limit"]
    if isinstance(soft, int) and isinstance(hard, int) and soft > hard:
        errors.setdefault("soft_limit", []).append("Must not be above the hard limit.")
    if terms.get("period", DEFAULT_PERIOD) not in PERIODS:
        errors["period"] = [f"Must be one of {', '.join(PERIODS)}."]
    return errors


def period_bounds(period: str, now: datetime) -> tuple[datetime, datetime]:
    """First instant of the period that contains `now`, and first instant after it. Weeks begin on Monday (ISO 8601)."""
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "daily":
        return day, day + timedelta(days=1)
    if period == "weekly":
        monday = day - timedelta(days=day.weekday())
        return monday, monday + timedelta(days=7)
    if period == "monthly":
        first = day.replace(day=1)
        return first, (first + timedelta(days=31)).replace(day=1)
    raise ValueError(f"{period!r} is not a budget period")


def last_instant(period_end: datetime) -> datetime:
    """The end of a period as it is shown: its last millisecond."""
    return period_end - timedelta(milliseconds=1)


def check_spend(terms: Terms, balance: Balance, amount: NanoUSD) -> SpendCheck:
    """Whether `amount` may still be spent: spent + reserved + amount ≤ hard limit. An amount of 0 always may."""
    bound = terms.limit if terms.hard_limit is None else terms.hard_limit
    after = balance.committed + amount
    return SpendCheck(
        allowed=terms.hard_limit is None or after <= terms.hard_limit or amount == 0,
        remaining=NanoUSD(bound - balance.committed),
        remaining_after=NanoUSD(bound - after),
        crosses_soft=after >= terms.soft_limit,
    )


def soft_warning(terms: Terms) -> str:
    """The warning when spending reaches the soft limit."""
    return f"Reaches the soft limit of {usd(terms.soft_limit):.2f} USD for this {terms.period} budget."
