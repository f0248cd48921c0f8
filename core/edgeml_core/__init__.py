"""What host and device must agree on: bundles, trust, messages, targets, the update machine.

Bytes in, values out. Nothing here opens a socket, starts a thread, reads the clock or the environment:
callers pass `now` and bytes. A module belongs here only if host and device would disagree when it changes.
"""

__version__ = "0.1.0"
