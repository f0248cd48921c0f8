"""Request bodies: bounds, and the image in a form."""

import asyncio
import gzip
import zlib

import pytest

from edgeml_agent.http_api import body
from edgeml_agent.http_api import request as requests
from edgeml_agent.http_api.request import BODY, BodyMemory, Request
from edgeml_core.errors import OverloadedError, UsageError

HEADER = "multipart/form-data; boundary=xYz"
#: Bytes that a careless parser would change or split at.
IMAGE = b"\x89PNG\r\n\x1a\n--xY\n\r\r\n\r\n\x00\xff--"


def a_form(*parts, end=b"--\r\n"):
    """A form's body from (name, content) pairs."""
    pieces = [
        b'\r\nContent-Disposition: form-data; name="%s"; filename="a b.png"\r\nContent-Type: image/png\r\n\r\n%s\r\n'
        % (name, content)
        for name, content in parts
    ]
    return b"--xYz" + b"--xYz".join(pieces) + b"--xYz" + end


def a_request(*pieces, **headers):
    """A request whose body arrives in `pieces`."""
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive():
        return messages.pop(0)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive, {}, BodyMemory())


def read(request):
    """The body of `request`."""
    return asyncio.run(body.read(request))


def test_a_body_in_pieces_is_put_together():
    """The pieces come out in their order."""
    assert read(a_request(b"ab", b"", b"c")) == b"abc"


def test_body_memory_is_shared_by_all_requests_and_released(monkeypatch):
    """A body that has arrived counts as one in pieces does."""
    monkeypatch.setattr(requests, "BODIES_MAX_BYTES", 8)
    monkeypatch.setattr(requests, "SMALL_BODY_BYTES", 0)
    memory = BodyMemory()
    arrived, waiting = (a_request(b"12345") for _ in range(2))
    arrived.scope[BODY] = b"12345"
    arrived._memory = waiting._memory = memory
    assert read(arrived) == b"12345"
    with pytest.raises(OverloadedError, match="8 bytes"):
        read(waiting)
    waiting.release()
    arrived.release()
    assert memory.held_bytes == 0


def test_unpacked_bodies_count_in_the_memory_of_all(monkeypatch):
    """16 MiB of them come in 16 kB, and wait in a model's queue as long as others."""
    monkeypatch.setattr(requests, "BODIES_MAX_BYTES", 1_500_000)
    packed, memory = gzip.compress(b" " * 1_000_000), BodyMemory()
    first, second = (a_request(packed, content_encoding="gzip") for _ in range(2))
    first._memory = second._memory = memory
    assert len(read(first)) == 1_000_000
    assert memory.held_bytes == 1_000_000 + len(packed)
    with pytest.raises(OverloadedError, match="1500000 bytes"):
        read(second)
    first.release()
    second.release()
    assert memory.held_bytes == 0


def test_a_small_body_is_read_beside_bodies_that_take_all_memory(monkeypatch):
    """Four slow clients kept every other one from every model; a longer body is still refused."""
    monkeypatch.setattr(requests, "BODIES_MAX_BYTES", 1_000_000)
    memory = BodyMemory()
    memory.held_bytes = 1_000_000
    small, long = a_request(b"{}"), a_request(b" " * requests.SMALL_BODY_BYTES, b" ")
    small._memory = long._memory = memory
    assert read(small) == b"{}"
    with pytest.raises(OverloadedError):
        read(long)


def test_a_body_that_comes_a_byte_at_a_time_is_given_up(monkeypatch):
    """Each byte comes in time, and the body would take memory for a day."""
    monkeypatch.setattr(body, "WHOLE_MAX_S", 0.2)

    async def receive():
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x", "more_body": True}

    slow = a_request()
    slow.receive = receive
    with pytest.raises(UsageError, match="took more than 0 s") as caught:
        read(slow)
    assert caught.value.code == "input-invalid"


def test_a_body_declared_too_long_is_refused_unread():
    """The declared length is enough to refuse it."""
    with pytest.raises(UsageError) as caught:
        read(a_request(content_length=str(body.BODY_MAX_BYTES + 1)))
    assert caught.value.code == "body-too-large"


def test_a_body_that_grows_too_long_is_refused(monkeypatch):
    """A length that isn't declared, or is false, doesn't help."""
    monkeypatch.setattr(body, "BODY_MAX_BYTES", 8)
    assert read(a_request(b"1234", b"5678", content_length="1")) == b"12345678"
    with pytest.raises(UsageError) as caught:
        read(a_request(b"1234", b"56789", content_length="1"))
    assert caught.value.code == "body-too-large"


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_packed_body_is_unpacked(encoding, pack):
    """Both formats that clients use; a piece of one is refused."""
    packed = pack(b"x" * 1000)
    assert read(a_request(packed[:9], packed[9:], content_encoding=encoding)) == b"x" * 1000
    for damaged in (packed[:-1], b"x", b""):
        with pytest.raises(UsageError) as caught:
            read(a_request(damaged, content_encoding=encoding))
        assert caught.value.code == "input-invalid"


def test_a_packed_body_that_grows_too_long_is_refused():
    """Sixteen kilobytes that would become seventeen megabytes: nobody has to hold them."""
    bomb = gzip.compress(b"\0" * (body.BODY_MAX_BYTES + 1))
    assert len(bomb) < 20_000
    with pytest.raises(UsageError) as caught:
        read(a_request(bomb, content_encoding="gzip"))
    assert caught.value.code == "body-too-large"


def test_a_body_packed_in_another_way_is_refused():
    """It isn't taken for JSON by mistake."""
    with pytest.raises(UsageError) as caught:
        read(a_request(b"x", content_encoding="br"))
    assert caught.value.code == "content-unsupported"


def test_a_file_comes_out_of_a_form_unchanged():
    """Every byte survives, line ends and pieces of the boundary too."""
    assert body.form_field(a_form((b"note", b"hi"), (b"image", IMAGE)), HEADER, "image") == IMAGE
    assert body.form_field(a_form((b"image", b"")), HEADER, "image") == b""


@pytest.mark.parametrize(
    "form",
    [
        b"",
        b"--xYz",
        a_form((b"image", IMAGE), end=b""),
        a_form((b"other", IMAGE)),
        a_form((b"image", IMAGE), (b"image", IMAGE)),
        a_form(*[(b"n", b"")] * body.FORM_PARTS_MAX, (b"image", IMAGE)),
        b"--xYz\r\nno headers--xYz--",
        a_form((b'image"; filename="' + b"a" * body.FORM_HEAD_MAX_BYTES, IMAGE)),
    ],
)
def test_a_form_without_exactly_one_image_is_refused(form):
    """Broken off, missing, twice, one of too many parts, or behind too long a head."""
    with pytest.raises(UsageError) as caught:
        body.form_field(form, HEADER, "image")
    assert caught.value.code == "input-invalid"


def test_all_parts_of_a_form_come_in_their_order():
    """With equal names, too; the caller decides about those."""
    parts = [("file", IMAGE), ("model", b"ears"), ("model", b"")]
    assert body.form(a_form(*((name.encode(), content) for name, content in parts)), HEADER) == parts


@pytest.mark.parametrize("header", ["multipart/form-data", "multipart/form-data; boundary=", 'x; boundary="'])
def test_a_form_without_a_boundary_is_refused(header):
    """The header that a client wrote by hand."""
    with pytest.raises(UsageError):
        body.form_field(a_form((b"image", IMAGE)), header, "image")


@pytest.mark.parametrize("rest", [b"garbage", b"\0", gzip.compress(b"more")], ids=["text", "zero", "member"])
def test_what_follows_a_packed_body_is_refused(rest):
    """It would be dropped without a word: also a second member, which is the rest of a concatenated file."""
    with pytest.raises(UsageError, match=f"{len(rest)} bytes follow"):
        read(a_request(gzip.compress(b"whole") + rest, content_encoding="gzip"))
