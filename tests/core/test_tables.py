"""Tables that are never rewritten: by the ORM, and by anybody else."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.db import connection, transaction

from clasper.core.tables import AppendOnlyError, AppendOnlyModel

GUARDED = sorted(
    (model for model in apps.get_models() if issubclass(model, AppendOnlyModel)), key=lambda model: model.__name__
)


def test_some_tables_are_append_only() -> None:
    assert [model._meta.db_table for model in GUARDED] == ["audit_log"]


@pytest.mark.parametrize("model", GUARDED, ids=lambda model: model.__name__)
@pytest.mark.parametrize("method", ["update", "delete", "bulk_update", "update_or_create"])
def test_append_only_querysets_refuse(model: type[AppendOnlyModel], method: str) -> None:
    with pytest.raises(AppendOnlyError):
        getattr(model.objects.all(), method)()
    with pytest.raises(AppendOnlyError):
        getattr(model.objects.for_tenant("acme"), method)()


@pytest.mark.parametrize("model", GUARDED, ids=lambda model: model.__name__)
def test_append_only_rows_refuse(model: type[AppendOnlyModel]) -> None:
    row = model()
    row._state.adding = False
    with pytest.raises(AppendOnlyError):
        row.save()
    with pytest.raises(AppendOnlyError):
        row.delete()


@pytest.mark.parametrize("model", GUARDED, ids=lambda model: model.__name__)
def test_every_append_only_table_has_its_triggers(model: type[AppendOnlyModel], store: None) -> None:
    """Asked of the database itself, so that a table whose migration forgot them is noticed."""
    names = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = %s",
        "postgresql": "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass",
    }
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(names[connection.vendor], (model._meta.db_table,))
        assert len([name for (name,) in cursor.fetchall() if "append_only" in name]) == 2
