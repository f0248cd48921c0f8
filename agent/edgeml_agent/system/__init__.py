"""The operating system: memory, systemd, temperature."""
