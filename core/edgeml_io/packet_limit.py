"""A bound on the MQTT packets that come in: whoever plays the broker may announce 256 MB, and paho would hold them all.

No MQTT here, only the one place where paho reads: it asks for as many bytes as a packet has left.
"""

from __future__ import annotations

from typing import Any, Final

from edgeml_core.manifest import MANIFEST_MAX_BYTES

#: The longest packet is one with a manifest, and around it a topic and properties.
PACKET_MAX_BYTES: Final = MANIFEST_MAX_BYTES + 64 * 1024


class Bound:
    """Lets a paho client read no packet longer than `PACKET_MAX_BYTES`; it hangs up instead, before the first byte.

    Args:
        client: paho's; from now on it reads through this.
    """

    def __init__(self, client: Any) -> None:  # noqa: ANN401 - paho's class has no public name for where it reads
        #: How long the packet is that was too long; 0 while there was none.
        self.excess_bytes = 0
        self._receive = client._sock_recv  # noqa: SLF001 - paho has no bound of its own, and no other place for one
        client._sock_recv = self._received  # noqa: SLF001

    def _received(self, wanted_bytes: int) -> bytes:
        if wanted_bytes > PACKET_MAX_BYTES:
            self.excess_bytes = wanted_bytes
            raise ConnectionError("the packet is too long")
        data: bytes = self._receive(wanted_bytes)
        return data
