"""Free loopback ports that no other test process gets: each takes them from a section of its own.

They lie below the ports that Linux gives to clients, which would take a port between its choice and its use.
"""

from __future__ import annotations

import itertools
import os
import socket
from typing import Final

FIRST: Final = 10_000
#: A prime number of ports, so that each process steps through all of them from its own start.
COUNT: Final = 19_997
_next: Final = itertools.count(os.getpid() * 7919)


def free_port() -> int:
    """Return a loopback port that nobody listens on now."""
    for number in itertools.islice(_next, COUNT):
        port = FIRST + number % COUNT
        with socket.socket() as attempt:
            # A port whose last connections still wait for stray packets is free to a server.
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no port from {FIRST} to {FIRST + COUNT} is free")
