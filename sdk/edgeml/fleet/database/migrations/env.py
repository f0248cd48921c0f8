"""Alembic's entry: run the migrations on the connection that `migrate` opened, in its transaction."""

from __future__ import annotations

from alembic import context


def run() -> None:
    """Run the migrations to the revision that the caller requested."""
    context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
    context.run_migrations()


# Alembic's context exists while alembic itself loads this module.
if hasattr(context, "config"):
    run()
