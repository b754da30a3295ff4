"""Base classes of the tables: queries that begin with the tenant, and rows that are written once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

from django.db import models

from clasper.core.tenancy import AllTenants, TenantScope


class TenantQuerySet(models.QuerySet[Any]):
    """Queries of a tenant's table begin with `for_tenant` or `in_scope`."""

    def for_tenant(self, tenant_id: str) -> Self:
        return self.filter(tenant_id=tenant_id)

    def in_scope(self, tenants: TenantScope) -> Self:
        """The rows that the scope reaches."""
        return self.all() if isinstance(tenants, AllTenants) else self.for_tenant(tenants.tenant_id)


class AppendOnlyError(Exception):
    """A row of an append-only table was to be changed or deleted."""


def _refuse(*args: Any, **kwargs: Any) -> NoReturn:
    raise AppendOnlyError("rows of this table are never changed or deleted")


class AppendOnlyQuerySet(TenantQuerySet):
    """Reads and inserts only; a database trigger refuses the same to everyone else."""

    update = _refuse
    delete = _refuse
    bulk_update = _refuse
    update_or_create = _refuse


class AppendOnlyModel(models.Model):
    """A row that is written once."""

    objects = AppendOnlyQuerySet.as_manager()

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            _refuse()
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse()


@dataclass(frozen=True, slots=True)
class AppendOnlyTrigger:
    """The statements that make a table append-only in the database itself, and those that undo it."""

    table: str
    _events: tuple[str, ...] = field(default=("UPDATE", "DELETE"), repr=False)

    def create(self, vendor: str) -> list[str]:
        name, table = f"{self.table}_append_only", self.table
        if vendor == "sqlite":
            return [
                f"CREATE TRIGGER {name}_{event.lower()} BEFORE {event} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                for event in self._events
            ]
        function = (
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{table} is append-only'; END $$"
        )
        return [
            function,
            f"CREATE TRIGGER {name}_rows BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()",
            f"CREATE TRIGGER {name}_truncate BEFORE TRUNCATE ON {table} EXECUTE FUNCTION {name}()",
        ]

    def drop(self, vendor: str) -> list[str]:
        name, table = f"{self.table}_append_only", self.table
        if vendor == "sqlite":
            return [f"DROP TRIGGER IF EXISTS {name}_{event.lower()}" for event in self._events]
        return [
            f"DROP TRIGGER IF EXISTS {name}_rows ON {table}",
            f"DROP TRIGGER IF EXISTS {name}_truncate ON {table}",
            f"DROP FUNCTION IF EXISTS {name}()",
        ]
