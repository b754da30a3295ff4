from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("governance", "0005_daily_usage")]

    operations = [migrations.RenameField("BudgetHold", "run_id", "trace_id")]
