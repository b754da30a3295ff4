import json
from collections import defaultdict

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps
from django.db.models import Count


def count(apps: StateApps, editor: BaseDatabaseSchemaEditor) -> None:
    """Chains that exist already are counted once."""
    heads = apps.get_model("governance", "AuditHead").objects.using(editor.connection.alias)
    entries = apps.get_model("governance", "AuditEntry").objects.using(editor.connection.alias)
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for tenant_id, event_type, found in entries.values_list("tenant_id", "event_type").annotate(Count("id")).order_by():
        counts[tenant_id][event_type] = found
    for tenant_id, by_type in counts.items():
        heads.filter(tenant_id=tenant_id).update(counts=json.dumps(by_type))


class Migration(migrations.Migration):
    dependencies = [("governance", "0002_append_only")]

    operations = [
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(fields=["tenant_id", "actor", "id"], name="audit_log_by_actor"),
        ),
        migrations.AddField(
            model_name="audithead",
            name="counts",
            field=models.TextField(db_default="{}", default="{}"),
        ),
        migrations.RunPython(count, migrations.RunPython.noop),
    ]
