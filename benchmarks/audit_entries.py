"""Invented audit entries for measuring: of each run the three that every run leaves, and now and then another.

    python -m benchmarks.audit_entries --tenant acme --count 100000

Writes to the database of Clasper's settings, by the same verb as the runs.
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import django

BATCH = 2_000
"""Entries of one transaction."""
SECONDS_APART = 10.0
"""Between two entries, so that a million of them span some four months."""


def write_entries(*, tenant_id: str, count: int, end: datetime, seed: int = 1) -> None:
    """Appends so many entries to the tenant's chain, the last of them at `end`."""
    from apps.audit.services.recording import record_audit
    from clasper.core.db import atomic_batch

    entries = _entries(random.Random(seed))
    for first in range(0, count, BATCH):
        with atomic_batch() as batch:
            for number, entry in enumerate(islice(entries, min(BATCH, count - first)), first + 1):
                at = end - timedelta(seconds=SECONDS_APART * (count - number))
                record_audit(batch, tenant_id=tenant_id, now=at, **entry)


def _entries(chance: random.Random) -> Iterator[dict[str, Any]]:
    """What runs record, one after the other."""
    from clasper.core.ids import new_id

    number = 0
    while True:
        number += 1
        run = {"actor": f"agent:{chance.choice(('support', 'sales', 'ops'))}", "trace_id": new_id()}
        user = f"u-{chance.randrange(500)}"
        yield {
            **run,
            "event_type": "agent.start",
            "details": {
                "user_id": user,
                "agent_role": run["actor"].removeprefix("agent:"),
                "model": "openai/gpt-4o-mini",
                "workspace_id": "default",
                "environment": "production",
                "caller": "key:0194c8f0-7e1a-7000-8000-000000000001",
            },
        }
        took = chance.randrange(20, 900)
        called = {"tool": "orders:lookup", "skill": "orders", "status": "success", "duration_ms": took, "reason": ""}
        yield {**run, "event_type": "tool.call", "details": called}
        tokens = chance.randrange(200, 4000)
        yield {
            **run,
            "event_type": "agent.complete",
            "details": {
                "duration_ms": took + 700,
                "input_tokens": tokens,
                "output_tokens": tokens // 9,
                "cost": tokens * 1.5e-7,
                "tool_calls": 1,
            },
        }
        if number % 1_000 == 0:
            yield {"event_type": "budget.set", "actor": f"user:{user}", "details": {"before": None, "after": 5.0}}


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes invented audit entries of a tenant.")
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--count", type=int, required=True)
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "clasper.settings")
    django.setup()
    from clasper.core.clock import utc_now

    write_entries(tenant_id=options.tenant, count=options.count, end=utc_now())


if __name__ == "__main__":
    main()
