"""A bound on received MQTT packets: a hostile broker may announce 256 MB, and paho would hold them all.

This replaces the one place where paho reads: it asks there for as many bytes as a packet has left.
"""

from __future__ import annotations

from typing import Any, Final

from edgeml_core.manifest import MANIFEST_MAX_BYTES

#: Bytes of the longest packet: a manifest with a topic and properties.
PACKET_MAX_BYTES: Final = MANIFEST_MAX_BYTES + 64 * 1024


class Bound:
    """Let a paho client disconnect before it reads a packet that is longer than `PACKET_MAX_BYTES`.

    Args:
        client: paho's client; from now on it reads through this object.
    """

    def __init__(self, client: Any) -> None:  # noqa: ANN401 - paho's class has no public name for where it reads
        #: Bytes of the packet that was too long; 0 while there was none.
        self.excess_bytes = 0
        self._receive = client._sock_recv  # noqa: SLF001 - paho has no bound of its own
        client._sock_recv = self._received  # noqa: SLF001

    def _received(self, wanted_bytes: int) -> bytes:
        if wanted_bytes > PACKET_MAX_BYTES:
            self.excess_bytes = wanted_bytes
            raise ConnectionError(f"a packet of {wanted_bytes} bytes exceeds {PACKET_MAX_BYTES}")
        data: bytes = self._receive(wanted_bytes)
        return data
