"""How fast a bundle runs, and how busy the host was meanwhile."""
