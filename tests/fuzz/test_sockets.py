"""Hypothesis on the connection itself: what is no HTTP, breaks off, lies about its length, or is two requests in one.

Whoever sends such a thing gets an answer or is hung up on; nobody else notices.
"""

from __future__ import annotations

import errno
import socket
import time
from typing import Final

from hypothesis import strategies as st

from fuzz import campaign, driving, hostile
from fuzz.request import TOKEN
from fuzz.site import ANSWER_MAX_S, Site, hold_answer

PART: Final = "sockets"
#: Of a connection that the server has ended: it had heard enough. `shutdown` finds no connection at all then.
ENDED: Final = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)
BODY: Final = b'{"inputs": {"x": [[1, 2, 3, 4]]}}'
HEAD: Final = (
    b"POST /v1/models/line/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n"
)
CHUNKED: Final = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
SIZED: Final = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
RIGHT: Final = (
    SIZED,
    CHUNKED,
    SIZED + CHUNKED,
    SIZED.replace(b"HTTP/1.1", b"HTTP/1.0"),
    SIZED.replace(b"Host", b"Expect: 100-continue\r\nHost"),
    SIZED.replace(b"Host", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHost"),
    SIZED.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AA==\r\nHost"),
)
WRONG: Final = (
    SIZED.replace(b"Content-Length: ", b"Content-Length: -"),
    SIZED.replace(b"Content-Length: ", b"Content-Length: 9"),
    SIZED.replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\n"),
    SIZED.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"),
    SIZED.replace(b"Content-Length: ", b"Content-Length: " + b"9" * 400),
    CHUNKED.replace(b"\r\n\r\n21", b"\r\n\r\n" + b"f" * 20),
    HEAD + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
    HEAD + b"X: a\r\n" * 5000 + b"\r\n",
    b"GET " + b"/a" * 60_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET http://127.0.0.1/v1/models HTTP/1.1\r\nHost: [\r\n\r\n",
    b"\r\n" * 1000,
)


def test_whatever_is_sent_the_connection_ends(site: Site) -> None:
    """By an answer or without one; in time, since who sends has nothing more to say."""
    sent = st.sampled_from((*RIGHT, *RIGHT, *WRONG)).flatmap(lambda it: st.just(it) | hostile.changed(it))
    driving.each(sent, campaign.inputs(PART), lambda it: _hold(site, it))
    assert campaign.part(PART).inputs >= campaign.inputs(PART)
    site.hold()


def _hold(site: Site, sent: bytes) -> None:
    begun_s = time.perf_counter()
    answer = _answer(site.address, sent)
    status = int(answer[9:12]) if answer.startswith(b"HTTP/1.") else None
    hold_answer(PART, status, time.perf_counter() - begun_s, repr(sent[:60]))


def _answer(address: str, sent: bytes) -> bytes:
    """All that comes back until the server closes the connection, which it does since the client has finished."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=2 * ANSWER_MAX_S) as connection:
        got = b""
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                got += piece
        except OSError as error:
            if error.errno not in ENDED:
                raise
        return got
