"""The tables were created by the governance app; only the models move, no table is touched."""

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = [("governance", "0003_audit_counts_and_actor")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.CreateModel(
                    name="AuditHead",
                    fields=[
                        ("tenant_id", models.CharField(max_length=128, primary_key=True, serialize=False)),
                        ("seq", models.BigIntegerField()),
                        ("hash", models.CharField(max_length=64)),
                        ("counts", models.TextField(db_default="{}", default="{}")),
                    ],
                    options={
                        "db_table": "audit_heads",
                    },
                ),
                migrations.CreateModel(
                    name="AuditEntry",
                    fields=[
                        ("id", models.BigAutoField(primary_key=True, serialize=False)),
                        ("tenant_id", models.CharField(max_length=128)),
                        ("seq", models.BigIntegerField()),
                        ("timestamp", models.DateTimeField()),
                        ("event_type", models.CharField(max_length=64)),
                        ("trace_id", models.CharField(max_length=36, null=True)),
                        ("actor", models.CharField(max_length=256)),
                        ("details", models.TextField()),
                        ("prev_hash", models.CharField(max_length=64)),
                        ("hash", models.CharField(max_length=64)),
                    ],
                    options={
                        "verbose_name_plural": "audit entries",
                        "db_table": "audit_log",
                        "indexes": [
                            models.Index(fields=["tenant_id", "timestamp", "id"], name="audit_log_by_time"),
                            models.Index(fields=["tenant_id", "event_type", "id"], name="audit_log_by_type"),
                            models.Index(fields=["tenant_id", "actor", "id"], name="audit_log_by_actor"),
                            models.Index(fields=["tenant_id", "trace_id"], name="audit_log_by_trace"),
                        ],
                        "constraints": [models.UniqueConstraint(fields=("tenant_id", "seq"), name="audit_log_seq")],
                    },
                ),
            ]
        )
    ]
