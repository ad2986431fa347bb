"""The ledger's tables, the same on SQLite and PostgreSQL. Times are seconds since 1970, UTC."""

from __future__ import annotations

import sqlalchemy as sa

SCHEMA_VERSION = 1

metadata = sa.MetaData()

ledger = sa.Table(
    "jade_ledger",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("owner", sa.String(40), nullable=False),
    sa.Column("made_at", sa.Double, nullable=False),
)
"""One row: who this ledger is. It is locked while money is promised."""

rentals = sa.Table(
    "jade_rentals",
    metadata,
    sa.Column("request_id", sa.String(32), primary_key=True),
    sa.Column("owner", sa.String(40), nullable=False, index=True),
    sa.Column("provider", sa.String(32), nullable=False),
    sa.Column("name", sa.String(96), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("kind", sa.String(128), nullable=False),
    sa.Column("title", sa.String(128), nullable=False),
    sa.Column("region", sa.String(64), nullable=False),
    sa.Column("spot", sa.Boolean, nullable=False),
    sa.Column("price_usd_per_hour", sa.Double, nullable=False),
    sa.Column("max_age_s", sa.Double, nullable=False),
    sa.Column("orphan_grace_s", sa.Double, nullable=False),
    sa.Column("run_id", sa.String(128), nullable=False, index=True),
    sa.Column("flow_run_id", sa.String(64), nullable=False),
    sa.Column("run_keys", sa.Text, nullable=False),
    sa.Column("claim", sa.String(200), nullable=False),
    sa.Column("machine_id", sa.String(128), key="instance_id"),
    sa.Column("host", sa.String(255)),
    sa.Column("port", sa.Integer),
    sa.Column("user", sa.String(64)),
    sa.Column("fingerprint", sa.String(64)),
    sa.Column("intended_at", sa.Double, nullable=False),
    sa.Column("acquired_at", sa.Double),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double),
    sa.Column("cost_usd", sa.Double, nullable=False),
    sa.Column("problem", sa.Text, nullable=False),
)

events = sa.Table(
    "jade_rental_events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("request_id", sa.String(32), sa.ForeignKey("jade_rentals.request_id"), nullable=False, index=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("old", sa.String(16), nullable=False),
    sa.Column("new", sa.String(16), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)

reapers = sa.Table(
    "jade_reapers",
    metadata,
    sa.Column("owner", sa.String(40), primary_key=True),
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("seen_at", sa.Double, nullable=False),
)
