from __future__ import annotations

from django.db import migrations


class Migration(migrations.Migration):
    """The table keeps its name, so nothing happens in the database."""

    dependencies = [("governance", "0004_models_moved")]

    operations = [migrations.RenameModel(old_name="SpendDay", new_name="DailyUsage")]
