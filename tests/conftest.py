"""The one named world of the tests: tenants *acme* and *globex* (the stranger), loopback sockets only."""

from __future__ import annotations

import os

# Before Django reads its settings: the tests never inherit the developer's own configuration.
for _name in list(os.environ):
    if _name.startswith(("CLASPER_", "OPENAI_", "LLM_", "AGENT_", "BACKEND_")) and _name != "CLASPER_RECORDINGS":
        del os.environ[_name]
os.environ["CLASPER_ENV"] = "test"

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from django.apps import apps
from django.conf import settings
from django.db import connection

from clasper.core.db import AppendOnlyModel, AppendOnlyTrigger, writer

ACME = "acme"
GLOBEX = "globex"
NOW = datetime(2026, 2, 10, 12, 0, 0, tzinfo=UTC)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """SQLite tests use a file: the run path writes from a connection of its own, which a memory database hides from."""
    database = settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3"):
        database["TEST"]["NAME"] = str(tmp_path_factory.mktemp("db") / "test.db")


@pytest.fixture
def now() -> datetime:
    """A Tuesday noon in the middle of a month, away from every period's edge."""
    return NOW


@pytest.fixture
def store(django_db_setup: None, django_db_blocker: pytest.FixtureRequest) -> Iterator[None]:
    """The real database, committed to by everybody and emptied afterwards.

    Transactions that roll back (pytest-django's `db`) would hide the rows from the run path, which writes from a
    connection of its own.
    """
    with django_db_blocker.unblock():  # type: ignore[attr-defined]
        yield
        writer.close()
        empty_database()
        connection.close()


def empty_database() -> None:
    """Deletes every row of every table of ours, lifting the append-only triggers meanwhile."""
    models = [model for model in apps.get_models() if model.__module__.startswith("apps.")]
    guarded = [AppendOnlyTrigger(m._meta.db_table) for m in models if issubclass(m, AppendOnlyModel)]
    with connection.cursor() as cursor:
        for trigger in guarded:
            for statement in trigger.drop(connection.vendor):
                cursor.execute(statement)
        for model in models:
            cursor.execute(f"DELETE FROM {model._meta.db_table}")
        for trigger in guarded:
            for statement in trigger.create(connection.vendor):
                cursor.execute(statement)
