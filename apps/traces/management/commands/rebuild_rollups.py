"""manage.py rebuild_rollups: compute again the day sums that statistics and dashboards read."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

from django.core.management.base import CommandParser

from apps.traces.services.rollups import Rebuilt, rebuild
from clasper.core import commands
from clasper.core.clock import utc_now


class Command(commands.Command):
    help = "Computes the day sums of runs again from the traces, day by day."
    epilog = """examples:
  manage.py rebuild_rollups                    every tenant's
  manage.py rebuild_rollups --tenant acme
  manage.py rebuild_rollups --json | jq .runs

May run while the server does. A day whose sums count more runs than it has traces is kept as it is: retention has
deleted some of its traces, and their sums are all that is left of them.
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", help="only this tenant's")
        parser.add_argument("--json", action="store_true", help="print one JSON object, and no progress")

    def handle(self, *args: Any, **options: Any) -> None:
        tenants = commands.scope_of(options["tenant"])
        progress = (lambda *_: None) if options["json"] else self._progress
        done = rebuild(tenants=tenants, now=utc_now(), progress=progress)
        total = sum(done.values(), Rebuilt())
        if options["json"]:
            by_tenant = {tenant: _body(rebuilt) for tenant, rebuilt in done.items()}
            self.stdout.write(json.dumps({**_body(total), "tenants": by_tenant}))
            return
        self.stdout.write(f"Days computed: {total.days}, runs in them: {total.runs:,}, days kept: {total.kept}.")

    def _progress(self, tenant_id: str, day: date, runs: int | None) -> None:
        what = "kept: traces were deleted" if runs is None else f"{runs:,} runs"
        self.stderr.write(f"{tenant_id} {day.isoformat()}: {what}")


def _body(done: Rebuilt) -> dict[str, int]:
    return {"days": done.days, "runs": done.runs, "kept_days": done.kept}
