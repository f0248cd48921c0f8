"""The hardware of this machine, and diagnostics of it."""
