"""manage.py audit_export: the audit log as a file that scripts/verify_audit.py verifies without Clasper."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from django.core.management.base import CommandError, CommandParser

from apps.audit.queries import audit_tenants
from apps.audit.services.checkpoints import take_checkpoint
from apps.audit.services.export import CSV, NDJSON, export_chunks, plan_export
from clasper.core import commands
from clasper.core.clock import parse_iso, utc_now
from clasper.core.errors import Conflict, NotFound, Unavailable

ACTOR = "system:command"


class Command(commands.Command):
    help = "Writes the audit log, or checkpoints of it, to a file; the export is audited."
    epilog = """examples:
  manage.py audit_export --tenant acme --out acme.ndjson
  manage.py audit_export --start 2026-02-01T00:00:00Z --end 2026-03-01T00:00:00Z --out february.ndjson
  manage.py audit_export --format csv | head
  manage.py audit_export --checkpoints --out checkpoints.ndjson
  python scripts/verify_audit.py acme.ndjson

With CLASPER_AUDIT_SIGNING_KEY each chain's entries are followed by a signed checkpoint. With --checkpoints the file
contains only those: keep one of every day elsewhere, and verify against it with manage.py audit_verify --checkpoint.

exit codes: 0 done, 1 no key, no such chain, or a broken one that got no checkpoint, 2 wrong arguments or a file that
cannot be written
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", help="only this tenant's chain; '' is the platform's own. Default: every chain")
        parser.add_argument("--out", metavar="FILE", help="the file to write. Default: the standard output")
        parser.add_argument("--format", choices=[NDJSON, CSV], default=NDJSON, help="csv carries no checkpoint")
        parser.add_argument("--start", type=_instant, metavar="TIME", help="not before this instant (ISO 8601)")
        parser.add_argument(
            "--end", type=partial(_instant, last=True), metavar="TIME", help="not after this instant (ISO 8601)"
        )
        parser.add_argument("--checkpoints", action="store_true", help="only a checkpoint of every chain")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["start"] and options["end"] and options["end"] < options["start"]:
            raise CommandError("--end is before --start.", returncode=2)
        broken: list[str] = []
        chunks = _checkpoints(options["tenant"], broken) if options["checkpoints"] else _entries(options)
        try:
            if options["out"] is None:
                for chunk in chunks:
                    self.stdout.write(chunk.decode(), ending="")
            else:
                _write(Path(options["out"]), chunks)
        except (NotFound, Unavailable) as error:
            raise CommandError(error.message) from error
        except BrokenPipeError:
            # The reader, `head` perhaps, has seen enough; without this Python complains while it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            raise CommandError(f"{options['out']}: {error.strerror}", returncode=2) from error
        if broken:
            raise CommandError("\n".join(broken))


def _entries(options: dict[str, Any]) -> Iterator[bytes]:
    now = utc_now()
    export = plan_export(
        tenants=commands.scope_of(options["tenant"]),
        format_name=options["format"],
        actor=ACTOR,
        now=now,
        start=options["start"],
        end=options["end"],
    )
    yield from export_chunks(export, now=now)


def _checkpoints(tenant: str | None, broken: list[str]) -> Iterator[bytes]:
    """One line for every chain; those that get no checkpoint are added to `broken`, so that the others get theirs."""
    for tenant_id in audit_tenants() if tenant is None else [tenant]:
        try:
            checkpoint = take_checkpoint(tenant_id=tenant_id, actor=ACTOR, now=utc_now())
        except Conflict as error:
            broken.append(f"{tenant_id or '(platform)'}: {error.message}")
        else:
            yield msgspec.json.encode({"checkpoint": checkpoint}) + b"\n"


def _write(path: Path, chunks: Iterator[bytes]) -> None:
    """Writes beside the file and moves it there at the end, so that no half export is taken for a whole one."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.writelines(chunks)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _instant(text: str, *, last: bool = False) -> datetime:
    try:
        return parse_iso(text, last=last)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError("write an ISO 8601 time such as 2026-02-01T19:30:00Z") from error
