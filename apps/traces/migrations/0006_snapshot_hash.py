from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("traces", "0005_schedule_moved")]

    operations = [migrations.RenameField("trace", "workspace_hash", "snapshot_hash")]
