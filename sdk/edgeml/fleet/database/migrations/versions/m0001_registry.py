"""The registry: hosts, devices, reports and their history."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0001"
down_revision: Final = None


def upgrade() -> None:
    """Make the tables."""
    name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table(
        "host",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("seen_s", sa.Double, nullable=False),
        sa.Column("is_leader", sa.Boolean, nullable=False),
        sa.Column("lock", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "leader",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("term", sa.BigInteger, nullable=False),
        sa.Column("session", sa.Text, nullable=False),
    )
    op.create_table(
        "device",
        sa.Column("id", name, primary_key=True),
        sa.Column("seen_s", sa.Double, nullable=False),
        sa.Column("state", sa.LargeBinary),
        sa.Column("states", sa.BigInteger, nullable=False),
        sa.Column("reports", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "report",
        sa.Column("deployment", sa.Text, primary_key=True),
        sa.Column("device", name, primary_key=True),
        sa.Column("seen_s", sa.Double, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("report", sa.LargeBinary, nullable=False),
    )
    op.create_index("report_by_device", "report", ["device"])
    op.create_index("report_by_state", "report", ["deployment", "state"])
    op.create_table(
        "history",
        sa.Column("device", name, primary_key=True),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("seen_s", sa.Double, nullable=False),
        sa.Column("message", sa.LargeBinary, nullable=False),
    )
