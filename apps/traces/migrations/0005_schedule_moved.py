"""When retention is next due is in the lease table of all periodic tasks now."""

from django.db import migrations

_CARRY_OVER = "INSERT INTO schedule_leases (name, due_at, holder) SELECT 'retention', due_at, '' FROM retention_turns"
_CARRY_BACK = (
    "INSERT INTO retention_turns (id, due_at) SELECT 1, due_at FROM schedule_leases WHERE name = 'retention'",
    "DELETE FROM schedule_leases WHERE name = 'retention'",
)


class Migration(migrations.Migration):
    dependencies = [
        ("traces", "0004_labels_by_time"),
        ("schedule", "0001_initial"),
    ]

    operations = [
        migrations.RunSQL(_CARRY_OVER, _CARRY_BACK),
        migrations.DeleteModel(name="RetentionTurn"),
    ]
