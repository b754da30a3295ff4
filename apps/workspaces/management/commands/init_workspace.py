"""`manage.py init_workspace`: writes a workspace to start from."""

from __future__ import annotations

import os
import tempfile
from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser, DjangoHelpFormatter

SCAFFOLD = Path(__file__).resolve().parents[2] / "scaffold"

_EPILOG = """example:
  manage.py init_workspace ./workspace
  CLASPER_WORKSPACE=./workspace make serve
"""


class _HelpFormatter(DjangoHelpFormatter, RawDescriptionHelpFormatter):
    """Django's order of options, and the example's line breaks."""


class Command(BaseCommand):
    help = "Writes a workspace with explained example files. Existing files are left alone unless --force is given."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.formatter_class = _HelpFormatter
        parser.epilog = _EPILOG
        parser.add_argument("dir", nargs="?", help="where to write it (default: CLASPER_WORKSPACE)")
        parser.add_argument("--force", action="store_true", help="overwrite the files this command would write")

    def handle(self, *args: Any, **options: Any) -> None:
        target = Path(options["dir"] or settings.CLASPER_WORKSPACE).absolute()
        try:
            written, kept = _copy_scaffold(target, force=options["force"])
        except OSError as error:
            raise CommandError(f"Cannot write to {target}: {error.strerror}.") from error
        for path in written:
            self.stdout.write(f"  wrote  {path}")
        for path in kept:
            self.stdout.write(f"  kept   {path} (it exists; --force overwrites it)")
        self.stdout.write(_next_steps(target))


def _copy_scaffold(target: Path, *, force: bool) -> tuple[list[str], list[str]]:
    written: list[str] = []
    kept: list[str] = []
    (target / "memory").mkdir(parents=True, exist_ok=True)
    for source in sorted(path for path in SCAFFOLD.rglob("*") if path.is_file()):
        name = source.relative_to(SCAFFOLD).as_posix()
        destination = target / name
        if os.path.lexists(destination) and not force:
            kept.append(name)
            continue
        destination.parent.mkdir(parents=True, exist_ok=True)
        _write(destination, source.read_bytes())
        written.append(name)
    return written, kept


def _write(destination: Path, content: bytes) -> None:
    """Replaces the file in one step, so that a running server never reads half of it."""
    descriptor, temporary = tempfile.mkstemp(dir=destination.parent, prefix=".init-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, destination)
    except BaseException:
        os.unlink(temporary)
        raise


def _next_steps(target: Path) -> str:
    return (
        f"\nThe workspace is in {target}. Next:\n"
        "  1. Edit SOUL.md (who the agent is) and AGENTS.md (what it must and must not do).\n"
        "  2. Read skills/order-status/SKILL.md: skills grant the tools an agent may use.\n"
        f"  3. Serve it: CLASPER_WORKSPACE={target} make serve\n"
        "  4. GET /context shows how much of the prompt every file takes, GET /skills which skills are enabled.\n"
        "Changes are picked up while the server runs."
    )
