"""Sockets, files and time for host and device. Each module wraps one thing; none knows a model."""
