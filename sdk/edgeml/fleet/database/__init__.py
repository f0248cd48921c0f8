"""The fleet's database: SQLite in a file, or PostgreSQL. `registry` and its neighbours decide which rows it has."""
