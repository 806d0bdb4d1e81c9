"""A model of its own, and a column and an index on a table that is there."""
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            "Shipment",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("carrier", models.CharField(max_length=40, db_index=True)),
                ("sent", models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.RunSQL("ALTER TABLE orders ADD COLUMN shipment bigint REFERENCES shop_shipment", "ALTER TABLE orders DROP COLUMN shipment"),
        migrations.RunSQL("CREATE INDEX orders_shipment ON orders (shipment)", migrations.RunSQL.noop),
        migrations.RunSQL("INSERT INTO shop_shipment (carrier, sent) VALUES ('post', now())", migrations.RunSQL.noop),
    ]
