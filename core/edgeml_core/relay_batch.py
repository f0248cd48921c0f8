"""Messages of a site's devices in one payload: their relay forwards them together, the newest for each subject.

Fifty devices report nearly the same of one update. Packed together, their messages cost little more than one. The
receiver decides whether a relay may forward for a device, by the signed labels of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec
import zstandard

from edgeml_core import decoding
from edgeml_core.errors import RejectedError
from edgeml_core.messages import MESSAGE_MAX_BYTES, DeviceState, Report, check_numbers, encode

#: Messages in one payload.
MESSAGES_MAX: Final = 256
#: Bytes of an unpacked payload; more than any site sends at once.
UNPACKED_MAX_BYTES: Final = 1024**2
#: Bytes of the messages alone: brackets and commas take the rest.
_ENCODED_MAX_BYTES: Final = UNPACKED_MAX_BYTES - MESSAGES_MAX - 1
_ZSTD_LEVEL: Final = 9


class RelayedMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A device's state or report, as the device sent it."""

    device: str
    state: DeviceState | None = None
    report: Report | None = None

    @property
    def subject(self) -> tuple[str, str]:
        """The device and deployment; a newer message on the same subject replaces this one."""
        return self.device, self.report.deployment if self.report else ""

    def message(self) -> DeviceState | Report:
        """Return the state or report, whose size is bounded as if the device itself had sent it.

        Raises:
            RejectedError: `document-format`, when it is too long, or there is none.
        """
        message = self.state or self.report
        if message is None:
            raise RejectedError("document-format", "a relayed message has neither a state nor a report")
        if (size_bytes := len(encode(message))) > MESSAGE_MAX_BYTES:
            text = f"a relayed message has {size_bytes} bytes; at most {MESSAGE_MAX_BYTES}"
            raise RejectedError("document-format", text)
        return message


def pack(messages: Iterable[RelayedMessage]) -> Iterator[bytes]:
    """Pack messages into payloads, each of at most `MESSAGES_MAX` messages and `UNPACKED_MAX_BYTES` unpacked.

    A message of `messages.MESSAGE_MAX_BYTES` has far less, so none is left out.
    """
    encoded: list[bytes] = []
    size_bytes = 0
    for message in map(msgspec.json.encode, messages):
        if encoded and (len(encoded) == MESSAGES_MAX or size_bytes + len(message) > _ENCODED_MAX_BYTES):
            yield _compress(encoded)
            encoded, size_bytes = [], 0
        encoded.append(message)
        size_bytes += len(message)
    if encoded:
        yield _compress(encoded)


def _compress(encoded: Sequence[bytes]) -> bytes:
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(b"[%b]" % b",".join(encoded))


def unpack(payload: bytes) -> list[RelayedMessage]:
    """Unpack the messages in a payload.

    Raises:
        RejectedError: `document-format`, when it is too long or malformed, or has a number that is too large.
    """
    try:
        # The size in the frame's header is not trusted with an allocation.
        if zstandard.frame_content_size(payload) > UNPACKED_MAX_BYTES:
            raise RejectedError("document-format", f"a relay's message unpacks to more than {UNPACKED_MAX_BYTES} bytes")
        data = zstandard.ZstdDecompressor().decompress(payload, max_output_size=UNPACKED_MAX_BYTES)
        messages = decoding.from_json(data, list[RelayedMessage])
    except (zstandard.ZstdError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RejectedError("document-format", f"a relay's message can't be read: {error}") from error
    check_numbers(messages)
    if len(messages) > MESSAGES_MAX:
        raise RejectedError("document-format", f"{len(messages)} messages in a relay's payload; at most {MESSAGES_MAX}")
    return messages
