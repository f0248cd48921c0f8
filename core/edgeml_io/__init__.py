"""What host and device both do with sockets, files and time. Each module wraps one thing; none knows a model."""
