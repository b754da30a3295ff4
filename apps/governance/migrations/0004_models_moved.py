"""API keys belong to the identity app now, and the audit log to the audit app; no table is touched."""

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

MOVED = {"apikey": "identity", "auditentry": "audit", "audithead": "audit"}


def move(apps: StateApps, editor: BaseDatabaseSchemaEditor) -> None:
    """Permissions of staff, and the admin's own log, refer to models by their content types."""
    types = apps.get_model("contenttypes", "ContentType").objects.using(editor.connection.alias)
    for model, app in MOVED.items():
        types.filter(app_label="governance", model=model).update(app_label=app)


def move_back(apps: StateApps, editor: BaseDatabaseSchemaEditor) -> None:
    types = apps.get_model("contenttypes", "ContentType").objects.using(editor.connection.alias)
    for model, app in MOVED.items():
        types.filter(app_label=app, model=model).update(app_label="governance")


class Migration(migrations.Migration):
    dependencies = [
        ("governance", "0003_audit_counts_and_actor"),
        ("audit", "0001_initial"),
        ("identity", "0001_initial"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.DeleteModel(name="ApiKey"),
                migrations.DeleteModel(name="AuditEntry"),
                migrations.DeleteModel(name="AuditHead"),
            ]
        ),
        migrations.RunPython(move, move_back),
    ]
