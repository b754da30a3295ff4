"""manage.py api_key: create, list and revoke tenants' API keys."""

from __future__ import annotations

import argparse
import json
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser

from apps.identity.domain.permissions import SCOPES
from apps.identity.services.keys import KeyLimits, KeySummary, create_api_key, list_api_keys, names_in, revoke_api_key
from clasper.core import commands
from clasper.core.clock import iso, utc_now
from clasper.core.errors import ClasperError
from clasper.core.schemas import render

ACTOR = "system:command"
MAX_DAYS = 36_500
"""A century: beyond the life of any key, and within what a date can hold."""


class Command(commands.Command):
    help = "Creates, lists and revokes API keys. A key is bound to one tenant and is shown only once."
    epilog = """examples:
  manage.py api_key create --tenant acme --name ci --scopes agents:run,traces:read
  manage.py api_key create --tenant acme --scopes agents:run --expires-days 90 \\
      --allowed-tools 'crm:*,search' --denied-tools crm:delete --rate-limit 100/minute --json
  manage.py api_key list --tenant acme
  manage.py api_key revoke 0194c8f0-7e1a-7000-8000-000000000001
"""

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="{create,list,revoke}")
        _add_create(actions.add_parser("create", help="create a key and print it", epilog=_SCOPES, **_LAYOUT))
        listing = actions.add_parser("list", help="list keys, newest first")
        listing.add_argument("--tenant", help="only this tenant's keys")
        listing.add_argument("--json", action="store_true", help="print a JSON array")
        revoking = actions.add_parser("revoke", help="end a key within seconds in every process")
        revoking.add_argument("id", help="the key's id, as create and list show it")
        revoking.add_argument("--tenant", help="only if it is this tenant's key")
        revoking.add_argument("--json", action="store_true", help="print a JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        act = {"create": self._create, "list": self._list, "revoke": self._revoke}[options["action"]]
        try:
            act(options)
        except ClasperError as error:
            raise CommandError(commands.explain(error)) from None

    def _create(self, options: dict[str, Any]) -> None:
        now = utc_now()
        days: int | None = options["expires_days"]
        if days is not None and not 0 < days <= MAX_DAYS:
            raise CommandError(f"--expires-days must lie between 1 and {MAX_DAYS}.")
        new = create_api_key(
            tenant_id=options["tenant"],
            name=options["name"],
            scopes=options["scopes"],
            actor=ACTOR,
            now=now,
            expires_at=None if days is None else now + timedelta(days=days),
            limits=KeyLimits(**{name: options[name] for name in KeyLimits.__struct_fields__}),
        )
        if not options["json"]:
            self.stdout.write(f"id   {new.id}\nkey  {new.key}")
            self.stdout.write("Keep the key now: it cannot be shown again.")
            return
        self.stdout.write(json.dumps(render(new)))

    def _list(self, options: dict[str, Any]) -> None:
        keys = list_api_keys(tenants=commands.scope_of(options["tenant"]))
        if options["json"]:
            self.stdout.write(json.dumps([render(key) for key in keys]))
            return
        for key in keys:
            self.stdout.write(f"{key.id}  {key.prefix}…  {key.tenant_id}  {key.name}  {_state(key)}")

    def _revoke(self, options: dict[str, Any]) -> None:
        tenants = commands.scope_of(options["tenant"])
        key = revoke_api_key(key_id=options["id"], actor=ACTOR, now=utc_now(), tenants=tenants)
        self.stdout.write(json.dumps(render(key)) if options["json"] else f"{key.id} is revoked.")


_SCOPES = "scopes:\n" + "\n".join(f"  {scope:18}{meaning}" for scope, meaning in SCOPES.items())
_LAYOUT: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}


def _add_create(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tenant", required=True, help="the tenant the key acts for")
    parser.add_argument("--name", default="", help="what the key is for")
    parser.add_argument("--scopes", required=True, type=names_in, metavar="A,B", help="scopes, or * for all")
    parser.add_argument("--expires-days", type=int, metavar="N", help="days until the key expires (default: never)")
    parser.add_argument("--allowed-tools", type=names_in, default=("*",), metavar="A,B", help="names, ns:* or *")
    parser.add_argument("--denied-tools", type=names_in, default=(), metavar="A,B", help="these beat the allowed ones")
    parser.add_argument("--allowed-models", type=names_in, default=(), metavar="A,B", help="default: every model")
    parser.add_argument("--allowed-skills", type=names_in, default=(), metavar="A,B", help="default: every skill")
    parser.add_argument("--max-output-tokens", type=int, metavar="N", help="most output tokens of a request")
    parser.add_argument("--rate-limit", default="", metavar="RATE", help="for example 100/minute")
    parser.add_argument("--json", action="store_true", help="print a JSON object with key and id")


def _state(key: KeySummary) -> str:
    if key.revoked_at:
        return f"revoked {iso(key.revoked_at)}"
    return f"expires {iso(key.expires_at)}" if key.expires_at else "active"
