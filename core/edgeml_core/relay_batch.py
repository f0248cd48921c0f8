"""What the devices of a site say, in one message: their relay passes it on together, newest first forgotten by newer.

Fifty devices say nearly the same of one update, and packed together it costs little more than one of them. Whether a
relay may speak for a device is the receiver's to judge, by the signed labels of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import zstandard

from edgeml_core.errors import RejectedError
from edgeml_core.messages import DeviceState, Report

SAYINGS_MAX: Final = 256
#: As long as the bounds of the single messages allow for, more than any site says at once.
UNPACKED_MAX_BYTES: Final = 1024**2
_ZSTD_LEVEL: Final = 9


class RelayedMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A device's state or report, as the device said it."""

    device: str
    state: DeviceState | None = None
    report: Report | None = None

    @property
    def subject(self) -> tuple[str, str]:
        """What it is about: a newer saying about the same replaces it."""
        return self.device, self.report.deployment if self.report else ""


def pack(sayings: Sequence[RelayedMessage]) -> bytes:
    """One payload of at most `SAYINGS_MAX` sayings."""
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(msgspec.json.encode(sayings))


def unpack(payload: bytes) -> list[RelayedMessage]:
    """The sayings in a payload.

    Raises:
        RejectedError: `document-format`, when it is too long or malformed.
    """
    try:
        # The frame's own claim of its size is not trusted with an allocation.
        if zstandard.frame_content_size(payload) > UNPACKED_MAX_BYTES:
            raise RejectedError("document-format", f"a relay's message unpacks to more than {UNPACKED_MAX_BYTES} bytes")
        data = zstandard.ZstdDecompressor().decompress(payload, max_output_size=UNPACKED_MAX_BYTES)
        sayings = msgspec.json.decode(data, type=list[RelayedMessage])
    except (zstandard.ZstdError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RejectedError("document-format", f"a relay's message can't be read: {error}") from error
    if len(sayings) > SAYINGS_MAX:
        raise RejectedError("document-format", f"a relay's message of {len(sayings)} sayings; at most {SAYINGS_MAX}")
    return sayings
