"""What the commands of `manage.py` share."""

from __future__ import annotations

import argparse
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandParser

from clasper.core.errors import ClasperError
from clasper.core.tenancy import ALL_TENANTS, OneTenant, TenantScope


class Command(BaseCommand):
    """A command whose `--help` ends with its `epilog`, in the lines in which it is written."""

    epilog: ClassVar[str] = ""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        kwargs.update(epilog=self.epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
        return super().create_parser(prog_name, subcommand, **kwargs)


def explain(error: ClasperError) -> str:
    """The error's message, and below it what is wrong with each field."""
    errors: dict[str, list[str]] = error.details.get("fieldErrors", {})
    return "\n  ".join([error.message, *(f"{field}: {text}" for field, texts in errors.items() for text in texts)])


def scope_of(tenant: str | None) -> TenantScope:
    """The scope that `--tenant` names; without it, all tenants."""
    return ALL_TENANTS if tenant is None else OneTenant(tenant)
