from django.db import migrations, models

_FILL = (
    "UPDATE trace_labels SET started_at = (SELECT t.started_at FROM traces t WHERE t.id = trace_labels.trace_id)",
    "DELETE FROM trace_labels WHERE started_at IS NULL",
)


class Migration(migrations.Migration):
    dependencies = [
        ("traces", "0003_platform_lists"),
    ]

    operations = [
        migrations.AddField(
            model_name="tracelabel",
            name="started_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.RunSQL(list(_FILL), migrations.RunSQL.noop),
        migrations.AlterField(
            model_name="tracelabel",
            name="started_at",
            field=models.DateTimeField(
                help_text="When the trace began: the indexes give its runs newest first.",
            ),
        ),
        migrations.RemoveIndex(
            model_name="tracelabel",
            name="trace_labels_by_value",
        ),
        migrations.AddIndex(
            model_name="tracelabel",
            index=models.Index(
                fields=["tenant_id", "key", "value", "started_at", "trace_id"], name="trace_labels_by_value"
            ),
        ),
        migrations.AddIndex(
            model_name="tracelabel",
            index=models.Index(fields=["tenant_id", "key", "started_at", "trace_id"], name="trace_labels_by_key"),
        ),
        migrations.CreateModel(
            name="RetentionTurn",
            fields=[
                ("id", models.SmallIntegerField(primary_key=True, serialize=False)),
                ("due_at", models.DateTimeField()),
            ],
            options={
                "db_table": "retention_turns",
            },
        ),
        migrations.AddIndex(
            model_name="trace",
            index=models.Index(fields=["tenant_id", "user_id", "started_at", "id"], name="traces_by_user"),
        ),
        migrations.AddIndex(
            model_name="rollup",
            index=models.Index(fields=["dimension", "day"], name="trace_rollups_of_all"),
        ),
        # The schedule kept its turn in this row before.
        migrations.RunSQL("DELETE FROM retention_policies WHERE tenant_id = ''", migrations.RunSQL.noop),
    ]
