"""One request over HTTP, as the strategies make it and the site sends it."""

from __future__ import annotations

from typing import Final, NamedTuple

TOKEN: Final = "a-token-of-24-characters"
AUTHORIZATION: Final = {"Authorization": f"Bearer {TOKEN}"}


class Request(NamedTuple):
    """One request; where `pieces` there are, the body goes out in chunks that end there."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]
    pieces: tuple[int, ...] = ()

    def sent(self) -> Request:
        """As it goes out: whoever chunks its body sends it at once, as a server may answer before it has read it."""
        if not self.pieces:
            return self
        ends = (*self.pieces, len(self.body))
        pieces = [self.body[begin:end] for begin, end in zip((0, *self.pieces), ends, strict=True)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
        return self._replace(body=chunks + b"0\r\n\r\n", headers={**self.headers, "Transfer-Encoding": "chunked"})
