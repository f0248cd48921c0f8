"""What survives a restart: the agent's database, releases on the disk, how they run best here, locks."""
