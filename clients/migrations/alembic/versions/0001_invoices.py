"""A new table that refers to one that is there, a column and an index on that, a function and a trigger."""
import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade():
    op.create_table(
        "invoices",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("order_id", sa.Integer, sa.ForeignKey("orders.id"), nullable=False),
        sa.Column("state", sa.Enum("open", "paid", name="invoice_state"), nullable=False, server_default="open"),
    )
    op.add_column("orders", sa.Column("invoiced", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_index("orders_invoiced", "orders", ["invoiced"])
    op.execute("CREATE FUNCTION mark() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE orders SET invoiced = true WHERE id = NEW.order_id; RETURN NEW; END'")
    op.execute("CREATE TRIGGER mark AFTER INSERT ON invoices FOR EACH ROW EXECUTE FUNCTION mark()")
    op.execute("INSERT INTO invoices (order_id) SELECT id FROM orders ORDER BY id LIMIT 3")


def downgrade():
    op.drop_index("orders_invoiced")
    op.drop_column("orders", "invoiced")
    op.drop_table("invoices")
    op.execute("DROP FUNCTION mark()")
    op.execute("DROP TYPE invoice_state")
