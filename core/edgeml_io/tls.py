"""TLS contexts of clients, for right clocks and for late ones.

A clock that is certainly late can't judge validity periods. But the newest signed time that the device has seen is a
lower bound of the true time: a certificate that ended before it has expired. OpenSSL checks both ends of a period or
none. So the handshake ignores the periods then, and the socket checks the ends before the first byte is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

#: OpenSSL's X509_V_FLAG_NO_CHECK_TIME; Python's ssl module doesn't name it.
_NO_CHECK_TIME: Final = 0x200000
#: Seconds for a handshake on a slow network.
HANDSHAKE_TIMEOUT_S: Final = 30.0
#: Seconds in which a server closes a connection whose certificate it refuses: with TLS 1.3 after the handshake.
REFUSAL_WAIT_S: Final = 3.0


class _LateSocket(ssl.SSLSocket):
    """A socket whose handshake fails when a certificate of the peer's verified chain ended before a time."""

    ends_after_s: float

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - ssl's signature
        super().do_handshake(block)
        # Python has a public method for it from 3.13 on.
        chain = cast("Any", self)._sslobj.get_verified_chain()  # noqa: SLF001
        for end in (certificate.get_info()["notAfter"] for certificate in chain):
            if ssl.cert_time_to_seconds(end) < self.ends_after_s:
                now = f"{datetime.fromtimestamp(self.ends_after_s, UTC):%Y-%m-%d}"
                raise ssl.SSLCertVerificationError(f"certificate has expired: on {end}, and it is {now} or later")


def client_context(
    *, ca: Path | None, cert: Path | None, key: Path | None, late_floor: datetime | None = None
) -> ssl.SSLContext:
    """Make the TLS context of a client.

    Args:
        ca: PEM file of authorities that replace the system's.
        cert: PEM file of the client's own certificate; None for none.
        key: PEM file of its key; None when `cert` holds it.
        late_floor: the clock is before this time, which has certainly passed: certificates may begin at any time, and
            must not end before it. None checks their times by the clock.

    Raises:
        OSError: a file can't be read or used.
    """
    context = ssl.create_default_context(cafile=ca)
    if late_floor is not None:
        context.verify_flags |= _NO_CHECK_TIME
        context.sslsocket_class = type("LateSocket", (_LateSocket,), {"ends_after_s": late_floor.timestamp()})
    if cert is not None:
        context.load_cert_chain(cert, key)
    return context


async def check_accepted(host: str, port: int, context: ssl.SSLContext) -> None:
    """Check by a handshake that a server accepts a client's certificate; nothing else is sent.

    Raises:
        OSError: the server refuses it, or can't be reached.
    """
    async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REFUSAL_WAIT_S):
                if not await reader.read(1):
                    raise ConnectionResetError("the server closed the connection after the handshake")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
