"""How many deliveries wait or failed, for monitoring. Counted from small indexes, and only up to a cap."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import connection

COUNTED_UP_TO = 100_000

# The statuses are literals: with parameters SQLite would not use the indexes that hold only these rows.
_PENDING = f"SELECT COUNT(*) FROM (SELECT 1 FROM outbox WHERE status = 'pending' LIMIT {COUNTED_UP_TO}) AS counted"
_DEAD = f"SELECT COUNT(*) FROM (SELECT 1 FROM outbox WHERE status = 'dead' LIMIT {COUNTED_UP_TO}) AS counted"


@dataclass(frozen=True, slots=True)
class Backlog:
    """Deliveries that are pending and that are dead; both exact up to COUNTED_UP_TO."""

    pending: int
    dead: int


def backlog() -> Backlog:
    """Counts the outbox of all tenants."""
    counts = []
    with connection.cursor() as cursor:
        for query in (_PENDING, _DEAD):
            cursor.execute(query)
            counts.append(int(cursor.fetchone()[0]))
    return Backlog(*counts)
