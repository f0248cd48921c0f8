"""The formats and rules that host and device must share: bundles, trust, messages, targets, the state machine.

Functions take bytes and return values. Nothing here opens a socket, starts a thread, reads the clock or the
environment: callers pass `now` and bytes. A module belongs here only if host and device would disagree when it changes.
"""

__version__ = "0.1.0"
