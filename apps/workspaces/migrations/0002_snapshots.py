from django.db import migrations, models

COPY = """INSERT INTO workspace_snapshots (tenant_id, hash, created_at, files)
 SELECT '', hash, created_at, files FROM workspace_contents ORDER BY created_at"""
COPY_BACK = """INSERT INTO workspace_contents (hash, created_at, files)
 SELECT hash, MIN(created_at), MIN(files) FROM workspace_snapshots GROUP BY hash"""


class Migration(migrations.Migration):
    """What runs used so far came from the one shared directory, so it belongs to everybody."""

    dependencies = [("workspaces", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="Snapshot",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("tenant_id", models.CharField(blank=True, max_length=128)),
                ("hash", models.CharField(max_length=80)),
                ("created_at", models.DateTimeField()),
                ("files", models.TextField(help_text="JSON object from path to the digest of its bytes.")),
            ],
            options={
                "db_table": "workspace_snapshots",
                "constraints": [models.UniqueConstraint(fields=("tenant_id", "hash"), name="workspace_snapshots_once")],
            },
        ),
        migrations.RunSQL(COPY, COPY_BACK),
        migrations.DeleteModel(name="WorkspaceContent"),
    ]
