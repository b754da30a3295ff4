"""What the outbox delivers, and when a failed delivery is tried again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

DeliveryKind = Literal["message", "document", "webhook"]

GIVE_UP_AFTER = timedelta(hours=24)
"""A backend that is down longer than a day needs a person."""

WEBHOOK_TRIES = 5

LONGEST_WAIT = timedelta(hours=1)
"""Even a backend that was down all night gets its messages within the hour."""


@dataclass(frozen=True, slots=True)
class PendingDelivery:
    """A backend write of a run; `payload` are the arguments of the call, unredacted."""

    id: str
    kind: DeliveryKind
    position: int
    payload: Mapping[str, Any]


WEBHOOK_POSITION = 9
"""After the run's backend writes; a webhook does not wait for them."""


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """Where the end of a run is reported, and whose run it is."""

    url: str
    secret: str
    headers: Mapping[str, str]
    user_id: str
    role: str


def wait_before_retry(
    *, kind: str, attempts: int, age: timedelta, base: timedelta, retry_after: float | None = None
) -> timedelta | None:
    """How long to wait after `attempts` failed tries of a delivery of this age; None means to give up.

    Exponential from `base`, at most an hour, never past the day after which the delivery is given up; a longer
    Retry-After of the receiver is honoured, up to an hour too.
    """
    if age >= GIVE_UP_AFTER or (kind == "webhook" and attempts >= WEBHOOK_TRIES):
        return None
    wait: timedelta = min(base * float(2 ** min(attempts - 1, 20)), LONGEST_WAIT)
    if retry_after is not None:
        wait = max(wait, timedelta(seconds=min(retry_after, LONGEST_WAIT.total_seconds())))
    return wait
