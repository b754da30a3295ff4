"""The tables were created by the governance app; only the models move, no table is touched."""

from django.db import migrations, models

import clasper.core.ids


class Migration(migrations.Migration):
    initial = True

    dependencies = [("governance", "0003_audit_counts_and_actor")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.CreateModel(
                    name="ApiKey",
                    fields=[
                        (
                            "id",
                            models.CharField(
                                default=clasper.core.ids.new_id,
                                editable=False,
                                max_length=36,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("tenant_id", models.CharField(max_length=128)),
                        ("name", models.CharField(blank=True, max_length=128)),
                        (
                            "prefix",
                            models.CharField(
                                editable=False, help_text="The first characters, to recognise a key by.", max_length=16
                            ),
                        ),
                        ("secret_hash", models.CharField(editable=False, max_length=64, unique=True)),
                        ("scopes", models.TextField(help_text="Comma-separated scopes, or *.")),
                        (
                            "allowed_tools",
                            models.TextField(blank=True, default="*", help_text="Comma-separated names, ns:*, or *."),
                        ),
                        ("denied_tools", models.TextField(blank=True, default="")),
                        ("allowed_models", models.TextField(blank=True, default="", help_text="Empty: every model.")),
                        ("allowed_skills", models.TextField(blank=True, default="", help_text="Empty: every skill.")),
                        (
                            "max_output_tokens",
                            models.PositiveIntegerField(
                                blank=True, help_text="Most output tokens a request.", null=True
                            ),
                        ),
                        (
                            "rate_limit",
                            models.CharField(
                                blank=True, default="", help_text="For example 100/minute.", max_length=32
                            ),
                        ),
                        ("created_at", models.DateTimeField()),
                        ("created_by", models.CharField(max_length=128)),
                        ("expires_at", models.DateTimeField(blank=True, null=True)),
                        ("revoked_at", models.DateTimeField(blank=True, editable=False, null=True)),
                        ("last_used_at", models.DateTimeField(blank=True, editable=False, null=True)),
                    ],
                    options={
                        "verbose_name": "API key",
                        "db_table": "api_keys",
                        "indexes": [models.Index(fields=["tenant_id", "created_at"], name="api_keys_by_tenant")],
                    },
                ),
            ]
        )
    ]
