from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

from clasper.core.tables import AppendOnlyTrigger

TRIGGER = AppendOnlyTrigger("audit_log")


def create(apps: StateApps, editor: BaseDatabaseSchemaEditor) -> None:
    for statement in TRIGGER.create(editor.connection.vendor):
        editor.execute(statement)


def drop(apps: StateApps, editor: BaseDatabaseSchemaEditor) -> None:
    for statement in TRIGGER.drop(editor.connection.vendor):
        editor.execute(statement)


class Migration(migrations.Migration):
    dependencies = [("governance", "0001_initial")]

    operations = [migrations.RunPython(create, drop)]
