"""Rules of the outbox: what may be owed, and when it is tried again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

DeliveryKind = Literal["message", "document", "webhook"]

GIVE_UP_AFTER = timedelta(hours=24)
"""A backend that is down longer than a day needs a person (rulings §3.8)."""

WEBHOOK_TRIES = 5
"""Rulings §8.6."""

LONGEST_WAIT = timedelta(hours=1)
"""Even a backend that was down all night gets its messages within the hour."""


@dataclass(frozen=True, slots=True)
class Owed:
    """One delivery of a run; `payload` is what the delivering verb needs, in the original."""

    id: str
    kind: DeliveryKind
    position: int
    payload: Mapping[str, Any]


WEBHOOK_POSITION = 9
"""Behind everything the run owes its backend; a webhook waits for none of it."""


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """Where the end of a run is reported, and about whom."""

    url: str
    secret: str
    headers: Mapping[str, str]
    user_id: str
    role: str


def wait_before_retry(
    *, kind: str, attempts: int, age: timedelta, base: timedelta, retry_after: float | None = None
) -> timedelta | None:
    """How long to wait after `attempts` failed tries of a delivery of this age; None means give up.

    Exponential from `base`, at most an hour, never past the day after which the delivery is given up; a longer
    Retry-After of the other side is honoured.
    """
    if age >= GIVE_UP_AFTER or (kind == "webhook" and attempts >= WEBHOOK_TRIES):
        return None
    wait: timedelta = min(base * float(2 ** min(attempts - 1, 20)), LONGEST_WAIT)
    if retry_after is not None:
        wait = max(wait, timedelta(seconds=min(retry_after, LONGEST_WAIT.total_seconds())))
    return wait
