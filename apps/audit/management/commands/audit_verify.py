"""manage.py audit_verify: recompute the audit log's hash chains and compare them with checkpoints."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from apps.audit.domain.chain import ChainReport, summarize_all
from apps.audit.domain.checkpoint import Checkpoint, read_checkpoint
from apps.audit.services.checkpoints import trusted_keys, verify_against
from apps.audit.services.reading import verify_all
from clasper.core import commands
from clasper.core.schemas import render


class Command(commands.Command):
    help = "Verifies that no entry of the audit log was changed, removed, inserted or moved."
    epilog = """examples:
  manage.py audit_verify                    every tenant's chain, and the platform's own
  manage.py audit_verify --tenant acme
  manage.py audit_verify --checkpoint acme.json --checkpoint globex.json
  manage.py audit_verify --json | jq .first_bad_seq

A checkpoint file contains what GET /audit/checkpoint or manage.py audit_export returned: one JSON object, or one per
line; lines that are not checkpoints are skipped. Its tenants are verified even if nothing is left of them.

exit codes: 0 all chains are valid, 1 at least one is broken or a checkpoint's signature is, 2 a file is unreadable or
contains no checkpoint of --tenant
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", help="only this tenant's chain; '' is the platform's own")
        parser.add_argument(
            "--checkpoint", action="append", default=[], metavar="FILE", help="a file of checkpoints; may be repeated"
        )
        parser.add_argument(
            "--checkpoint-key",
            action="append",
            default=[],
            metavar="KEY",
            help="a public key to trust (base64); may be repeated. Default: that of CLASPER_AUDIT_SIGNING_KEY",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        tenant: str | None = options["tenant"]
        checkpoints = [found for name in options["checkpoint"] for found in _read(name)]
        if checkpoints and tenant is not None and all(found.tenant_id != tenant for found in checkpoints):
            raise CommandError(f"none of these checkpoints is of the tenant {tenant!r}", returncode=2)
        reports = _reports(tenant, checkpoints, trusted=options["checkpoint_key"] or trusted_keys())
        if options["json"]:
            self.stdout.write(json.dumps(render(summarize_all(reports))))
        else:
            for tenant_id, report in reports.items():
                self.stdout.write(_line(tenant_id, report, compared=bool(checkpoints)))
            if not reports:
                self.stdout.write("The audit log is empty.")
        if not all(report.valid for report in reports.values()):
            sys.exit(1)


def _reports(
    tenant: str | None, checkpoints: Sequence[Checkpoint], *, trusted: Sequence[str]
) -> dict[str, ChainReport]:
    """Reports of the tenant's chain or, with None, of every chain; those with checkpoints are compared with them."""
    named = {found.tenant_id for found in checkpoints} if tenant is None else {tenant}
    reports = {} if tenant is not None else verify_all(excluding=named)
    for tenant_id in named:
        own = [found for found in checkpoints if found.tenant_id == tenant_id]
        reports[tenant_id] = verify_against(tenant_id=tenant_id, checkpoints=own, trusted=trusted)
    return dict(sorted(reports.items()))


def _read(name: str) -> list[Checkpoint]:
    """The checkpoints of a file. Raises CommandError (exit code 2) when it contains none or cannot be read."""
    try:
        found = [read_checkpoint(value) for value in _values(Path(name).read_text())]
    except (OSError, ValueError) as error:
        raise CommandError(f"{name}: {error}", returncode=2) from error
    if not found:
        raise CommandError(f"{name}: there is no checkpoint in this file", returncode=2)
    return found


def _values(text: str) -> Iterator[Any]:
    try:
        values = [json.loads(text)]
    except ValueError:
        values = [json.loads(line) for line in text.splitlines() if line.strip()]
    for value in values:
        if not isinstance(value, dict) or not value.keys() & {"event_type", "broken"}:
            yield value


def _line(tenant_id: str, report: ChainReport, *, compared: bool) -> str:
    name = tenant_id or "(platform)"
    if report.valid and report.checkpoint_seq is not None:
        return f"{name}: valid, {report.checked} entries, fits the checkpoint at {report.checkpoint_seq}"
    if report.valid:
        return f"{name}: valid, {report.checked} entries{', no checkpoint compared' if compared else ''}"
    if report.first_bad_seq is None:
        return f"{name}: NOT VERIFIED: {report.reason}"
    return f"{name}: BROKEN, first bad seq {report.first_bad_seq}: {report.reason}"
