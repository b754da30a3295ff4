"""manage.py seed_traces: fill a database with invented runs, to look at and to measure with."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from apps.traces.services.seeding import seed_traces
from clasper.core import commands
from clasper.core.clock import iso, parse_iso, utc_now
from clasper.core.errors import ClasperError

MAX_COUNT = 100_000_000
MAX_DAYS = 3650
PROGRESS_SECONDS = 1.0


class Command(commands.Command):
    help = "Writes invented runs that look like a busy tenant's. Refused in production unless --yes is given."
    epilog = """examples:
  manage.py seed_traces --count 10000
  manage.py seed_traces --count 1000000 --tenant acme --days 90 --seed 1
  manage.py seed_traces --count 10000 --until 2026-02-10T12:00:00Z --json

The same tenant, count, days, seed and end produce the same runs, in any database. Runs that exist already are refused.
Usage and the sums of /traces/stats count them; an existing budget does not.
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--count", type=int, required=True, metavar="N", help="how many runs")
        parser.add_argument("--tenant", default="acme", help="whose runs they are (default: acme)")
        parser.add_argument("--days", type=int, default=90, metavar="N", help="spread over so many days (default: 90)")
        parser.add_argument("--seed", type=int, default=1, metavar="N", help="other numbers, other runs (default: 1)")
        parser.add_argument("--until", help="end of the period, ISO 8601 (default: the start of the hour)")
        parser.add_argument("--yes", action="store_true", help="allow it in production")
        parser.add_argument("--json", action="store_true", help="print one JSON object, and no progress")

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.PRODUCTION and not options["yes"]:
            raise CommandError("In production, invented runs would count as usage. Use --yes to write them anyway.")
        until = _checked(options)
        began = time.monotonic()
        try:
            seed_traces(
                tenant_id=options["tenant"],
                count=options["count"],
                days=options["days"],
                seed=options["seed"],
                until=until,
                progress=(lambda _: None) if options["json"] else self._progress(options["count"]),
            )
        except ClasperError as error:
            raise CommandError(error.message) from None
        self._report(options, until, time.monotonic() - began)

    def _progress(self, count: int) -> Any:
        reported = time.monotonic()

        def progress(written: int) -> None:
            nonlocal reported
            if time.monotonic() - reported >= PROGRESS_SECONDS:
                reported = time.monotonic()
                self.stderr.write(f"{written:,} of {count:,} runs")

        return progress

    def _report(self, options: dict[str, Any], until: datetime, seconds: float) -> None:
        count, tenant = options["count"], options["tenant"]
        if options["json"]:
            report = {"tenant_id": tenant, "count": count, "days": options["days"], "seed": options["seed"]}
            self.stdout.write(json.dumps({**report, "until": iso(until), "seconds": round(seconds, 3)}))
            return
        rate = round(count / max(seconds, 0.001))
        self.stdout.write(f"{count:,} runs of {tenant} until {iso(until)} in {seconds:.1f} s, {rate:,} a second.")


def _checked(options: dict[str, Any]) -> datetime:
    """The end of the period. Raises CommandError naming everything that is wrong with the options."""
    errors = []
    if not 1 <= options["count"] <= MAX_COUNT:
        errors.append(f"--count must lie between 1 and {MAX_COUNT}.")
    if not 1 <= options["days"] <= MAX_DAYS:
        errors.append(f"--days must lie between 1 and {MAX_DAYS}.")
    if not 1 <= len(options["tenant"]) <= 128:
        errors.append("--tenant must have 1 to 128 characters.")
    until = utc_now().replace(minute=0, second=0, microsecond=0)
    try:
        until = parse_iso(options["until"]) if options["until"] else until
    except ValueError:
        errors.append("--until must be an ISO 8601 instant, for example 2026-02-10T12:00:00Z.")
    if until.year - options["days"] // 365 < 1972:
        errors.append("--until must be late enough for all runs to start after 1970.")
    if errors:
        raise CommandError("\n  ".join(errors), returncode=2)
    return until
