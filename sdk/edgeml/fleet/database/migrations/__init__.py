"""Alembic's migrations of the fleet's database. `edgeml.fleet.database.migrate` runs them."""
