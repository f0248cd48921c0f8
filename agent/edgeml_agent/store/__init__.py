"""State that survives a restart: the agent's database, releases on the disk, their tuning, lock files."""
