"""`manage.py providers`: which models can be asked, at what price, and whether they answer."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser
from rich.console import Console
from rich.table import Table

from apps.agents.services.providers import Check, ProviderEntry, check_provider, list_providers
from clasper.core import commands
from clasper.core.auth import ALL, Principal
from clasper.core.clock import utc_now
from clasper.core.db import writer
from clasper.core.errors import ClasperError
from clasper.core.model_ref import OFFLINE
from clasper.core.tenancy import ALL_TENANTS
from clasper.gateways.http import close_session

WIDTH = 140
"""Characters; a narrower table would break the names of models."""


class Command(commands.Command):
    help = "Lists the model providers: whether they are configured, their models and prices; --check asks each of them."
    epilog = """examples:
  manage.py providers                      every provider, its models and prices
  manage.py providers --check              asks each configured provider for one word; costs a tiny amount
  manage.py providers anthropic --check
  manage.py providers --check --json | jq '.checks[] | select(.error != "")'

exit codes: 0 all is well, 1 a provider that was checked did not answer or none is configured
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("names", nargs="*", metavar="provider", help="only these providers")
        parser.add_argument("--check", action="store_true", help="ask each configured provider for one word")
        parser.add_argument("--tenant", default="default", help="whom the checks are traced and booked for")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        entries = _chosen(options["names"])
        checks: list[Check] = []
        if options["check"]:
            asked = [entry for entry in entries if entry.configured and _is_real(entry, options["names"])]
            if not asked:
                raise CommandError("No provider is configured. Set a key, such as OPENAI_API_KEY (docs/providers.md).")
            checks = asyncio.run(_check_all(asked, options["tenant"]))
        if options["json"]:
            found = {
                "providers": [dataclasses.asdict(entry) for entry in entries],
                "checks": [dataclasses.asdict(check) for check in checks],
            }
            self.stdout.write(json.dumps(found))
        else:
            page = io.StringIO()
            _show(Console(file=page, width=WIDTH, highlight=False), entries, checks)
            self.stdout.write(page.getvalue())
        if any(check.error for check in checks):
            sys.exit(1)


def _chosen(names: list[str]) -> list[ProviderEntry]:
    try:
        entries = {entry.name: entry for entry in list_providers()}
    except ClasperError as error:
        problems = error.details.get("fieldErrors", {}).get("model", [error.message])
        raise CommandError(f"{' '.join(problems)} See LLM_MODEL_* and CLASPER_ROLE_MODELS.") from error
    unknown = [name for name in names if name not in entries]
    if unknown:
        raise CommandError(f"There is no provider {', '.join(unknown)}; there are: {', '.join(entries)}.")
    return [entries[name] for name in names] if names else list(entries.values())


def _is_real(entry: ProviderEntry, names: list[str]) -> bool:
    """The offline model only pretends, so it is asked when nothing else is meant."""
    return entry.name != OFFLINE or entry.is_default or entry.name in names


async def _check_all(entries: list[ProviderEntry], tenant_id: str) -> list[Check]:
    principal = Principal(actor="system:providers", tenants=ALL_TENANTS, scopes=frozenset({ALL}))
    try:
        return await asyncio.gather(
            *(check_provider(entry, principal=principal, tenant_id=tenant_id, now=utc_now()) for entry in entries)
        )
    finally:
        await close_session()
        await asyncio.to_thread(writer.close)


def _show(console: Console, entries: list[ProviderEntry], checks: list[Check]) -> None:
    table = Table("provider", "state", "model", "used for", "window", "USD per million tokens, in / out", box=None)
    for entry in entries:
        state = _state(entry)
        for n, model in enumerate(entry.models):
            price = model.price_status
            if model.input_per_million is not None:
                price = f"{model.input_per_million:g} / {model.output_per_million:g}"
            first = (entry.name, state) if n == 0 else ("", "")
            table.add_row(*first, model.name, ", ".join(model.used_for), f"{model.context_window:,}", price)
    console.print(table)
    for entry in entries:
        if entry.configured and entry.problem:
            console.print(f"{entry.name}: {entry.problem}", markup=False, soft_wrap=True)
    for check in checks:
        outcome = check.error or f"answered in {check.duration_ms} ms for {check.cost:.9f} USD"
        trace = f", trace {check.trace_id}" if check.trace_id else ""
        console.print(f"{check.provider}/{check.model}: {outcome}{trace}", markup=False, soft_wrap=True)


def _state(entry: ProviderEntry) -> str:
    if not entry.configured:
        return "not configured"
    if entry.problem:
        return "faulty"
    return "default" if entry.is_default else "ready"
