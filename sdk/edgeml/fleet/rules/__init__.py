"""Rules: how the host answers what devices and rollouts report, and the notices that it sends about it."""
