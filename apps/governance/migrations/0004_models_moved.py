"""API keys belong to the identity app now, and the audit log to the audit app; no table is touched."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("governance", "0003_audit_counts_and_actor"),
        ("audit", "0001_initial"),
        ("identity", "0001_initial"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.DeleteModel(name="ApiKey"),
                migrations.DeleteModel(name="AuditEntry"),
                migrations.DeleteModel(name="AuditHead"),
            ]
        )
    ]
