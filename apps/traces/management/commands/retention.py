"""manage.py retention: show and set retention policies, and enforce them."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser

from apps.traces.domain.retention import STORAGE_MODES, STRATEGIES, PolicyChange
from apps.traces.services.enforcement import Enforcement, enforce, enforce_all
from apps.traces.services.retention import get_policy, retention_stats, set_policy
from clasper.core import commands
from clasper.core.clock import iso, utc_now
from clasper.core.errors import ClasperError, InvalidRequest
from clasper.core.schemas import render
from clasper.core.tenancy import ALL_TENANTS
from clasper.core.validation import read

ACTOR = "system:command"

PROGRESS_EVERY = 5_000
"""Traces between two lines of progress."""


class Command(commands.Command):
    help = "Shows, sets and enforces retention policies: how long traces are kept, which, and with how much text."
    epilog = """examples:
  manage.py retention policy --tenant acme
  manage.py retention policy --tenant acme --days 30 --strategy sampled --rate 0.1 --storage summary
  manage.py retention enforce --tenant acme --dry-run
  manage.py retention enforce --json | jq .totalDeleted
  manage.py retention stats
"""

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="{policy,enforce,stats}")
        policy = actions.add_parser("policy", help="show a tenant's policy, or change what is given")
        policy.add_argument("--tenant", required=True, help="the tenant the policy is for")
        policy.add_argument("--days", type=int, metavar="N", help="days a trace is kept, 1 to 3650")
        policy.add_argument("--strategy", metavar="NAME", help=f"which traces are kept: {', '.join(STRATEGIES)}")
        policy.add_argument("--rate", type=float, metavar="SHARE", help="the share that sampled keeps, 0 to 1")
        policy.add_argument("--storage", metavar="MODE", help=f"how much text is kept: {', '.join(STORAGE_MODES)}")
        enforcing = actions.add_parser("enforce", help="delete and strip what the policies do not keep")
        enforcing.add_argument("--tenant", help="only this tenant's traces (default: all tenants with a policy)")
        enforcing.add_argument("--dry-run", action="store_true", help="only count")
        stats = actions.add_parser("stats", help="count the policies")
        for action in (policy, enforcing, stats):
            action.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        act = {"policy": self._policy, "enforce": self._enforce, "stats": self._stats}[options["action"]]
        try:
            act(options)
        except ClasperError as error:
            raise CommandError(
                commands.explain(error), returncode=2 if isinstance(error, InvalidRequest) else 1
            ) from None

    def _policy(self, options: dict[str, Any]) -> None:
        given = {
            "retention_days": options["days"],
            "sampling_strategy": options["strategy"],
            "sample_rate": options["rate"],
            "storage_mode": options["storage"],
        }
        tenant_id = options["tenant"]
        if not tenant_id:
            raise CommandError("--tenant is empty: name a tenant.", returncode=2)
        values = read(PolicyChange, {name: value for name, value in given.items() if value is not None}).values
        if values:
            found = set_policy(tenant_id=tenant_id, actor=ACTOR, now=utc_now(), values=values)
        else:
            found = get_policy(tenant_id=tenant_id)
        self._show(options, render(found))

    def _enforce(self, options: dict[str, Any]) -> None:
        how: dict[str, Any] = {"actor": ACTOR, "now": utc_now(), "dry_run": options["dry_run"]}
        progress = _Progress(self)
        if options["tenant"] is not None:
            if not options["tenant"]:
                raise CommandError("--tenant is empty: name a tenant, or leave it out for all.", returncode=2)
            done = [enforce(tenant_id=options["tenant"], progress=progress, **how)]
            body = render(done[0])
        else:
            done = enforce_all(progress=progress, **how)
            body = {
                "results": [render(result) for result in done],
                "totalDeleted": sum(result.deleted for result in done),
            }
        if options["json"]:
            self.stdout.write(json.dumps(body))
            return
        for result in done:
            self.stdout.write(_line(result))
        if not done:
            self.stdout.write("No tenant has a policy.")

    def _stats(self, options: dict[str, Any]) -> None:
        body = render(retention_stats(tenants=ALL_TENANTS))
        by_strategy = body.pop("tenantsByStrategy") if not options["json"] else {}
        self._show(options, {**body, **by_strategy})

    def _show(self, options: dict[str, Any], body: dict[str, Any]) -> None:
        if options["json"]:
            self.stdout.write(json.dumps(body))
            return
        for name, value in body.items():
            self.stdout.write(f"{name:18}{value}")


class _Progress:
    """Reports on stderr, every PROGRESS_EVERY traces, how far the enforcement is."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._reported = 0
        self._tenant = ""

    def __call__(self, done: Enforcement) -> None:
        seen = done.deleted + done.stripped + done.protected
        if done.tenant_id != self._tenant:
            self._tenant, self._reported = done.tenant_id, 0
        if seen >= self._reported + PROGRESS_EVERY:
            self._reported = seen
            self._command.stderr.write(f"{done.tenant_id}: {seen} traces so far")


def _line(done: Enforcement) -> str:
    would = "would be " if done.dry_run else ""
    return (
        f"{done.tenant_id}: {done.deleted} traces {would}deleted, {done.stripped} {would}stripped, "
        f"{done.protected} protected; oldest remaining {iso(done.oldest) if done.oldest else 'none'}"
    )
