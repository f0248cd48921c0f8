"""Notices to a real HTTP server on this machine: signed, bounded, and with an error for each way in which it fails."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ssl
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from edgeml.fleet import webhook as webhooks
from edgeml_core.errors import TransportError, UsageError
from support.certificates import certify
from support.receivers import receiver

SECRET = "a secret of some characters"


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    """The file with the secret."""
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    return path


def to(server: ThreadingHTTPServer, secret_file: Path, path: str = "/hook?k=v") -> webhooks.Webhook:
    """The webhook of a server."""
    return webhooks.parse(f"http://127.0.0.1:{server.server_port}{path}", secret_file)


def test_notice_arrives_signed(secret_file: Path):
    """The receiver's own computation gives the signature, over the time and the body."""
    with receiver() as server:
        assert asyncio.run(webhooks.post(to(server, secret_file), b'{"event":"drift-major"}')) == 204
    ((path, headers, body),) = server.received
    assert (path, body, headers["Content-Type"]) == ("/hook?k=v", b'{"event":"drift-major"}', "application/json")
    time_s, _, digest = headers["Edgeml-Signature"].removeprefix("t=").partition(",v1=")
    assert digest == hmac.new(SECRET.encode(), f"{time_s}.".encode() + body, hashlib.sha256).hexdigest()


def test_notice_arrives_over_tls_from_a_known_authority_alone(secret_file: Path, tmp_path: Path):
    """The receiver's certificate is checked."""
    certify(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "broker.crt", tmp_path / "broker.key")
    with receiver() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = f"https://127.0.0.1:{server.server_port}/hook"
        assert asyncio.run(webhooks.post(webhooks.parse(url, secret_file, tmp_path / "ca.crt"), b"{}")) == 204
        with pytest.raises(TransportError):
            asyncio.run(webhooks.post(webhooks.parse(url, secret_file), b"{}"))
    assert len(server.received) == 1


@pytest.mark.parametrize("status", [200, 302, 400, 500])
def test_status_is_returned_and_no_redirect_is_followed(secret_file: Path, status: int):
    """One request each."""
    with receiver(status) as server:
        assert asyncio.run(webhooks.post(to(server, secret_file), b"{}")) == status
    assert len(server.received) == 1


def test_server_without_an_answer_fails_in_time(secret_file: Path, monkeypatch):
    """The event loop runs on meanwhile."""
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 1.0)

    async def both(server: ThreadingHTTPServer) -> int:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.01)

        counting = asyncio.create_task(count())
        with pytest.raises(TransportError, match=r"gave no answer within 1 s"):
            await webhooks.post(to(server, secret_file), b"{}")
        counting.cancel()
        return turns

    with receiver(answers=False) as server:
        assert asyncio.run(both(server)) > 2


def test_absent_and_strange_servers_are_errors(secret_file: Path):
    """A closed port; a server that speaks something else, or without end."""
    with receiver() as server:
        gone = to(server, secret_file)
    with pytest.raises(TransportError) as caught:
        asyncio.run(webhooks.post(gone, b"{}"))
    assert caught.value.code == "webhook-failed"

    async def strange(answer: bytes) -> None:
        async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(TransportError):
                await webhooks.post(webhooks.parse(f"http://127.0.0.1:{port}/", secret_file), b"{}")

    for answer in (b"SSH-2.0\r\n", b"HTTP/1.1 \r\n", b"", b"x" * 100_000):
        asyncio.run(strange(answer))


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/x",
        "ftp://hooks.example/x",
        "https:///x",
        "https://user:password@hooks.example/x",
        "https://hooks.example/a b",
        "https://hooks.example/\r\nEvil: 1",
        "https://hooks.example:99999/x",
        "hooks.example",
    ],
)
def test_bad_addresses_are_refused_without_repeating_them(secret_file: Path, url: str):
    """Since one may have a password."""
    with pytest.raises(UsageError) as caught:
        webhooks.parse(url, secret_file)
    assert "example" not in caught.value.message


def test_secret_is_needed_and_long_enough(tmp_path: Path):
    """Else a guessed one would sign false notices."""
    short = tmp_path / "short"
    short.write_text("hunter2")
    for file in (None, short, tmp_path / "absent"):
        with pytest.raises(UsageError):
            webhooks.parse("https://hooks.example/x", file)
    hook = webhooks.parse("https://hooks.example/x?token=abc", _written(tmp_path / "long", SECRET))
    assert hook.name == "https://hooks.example"


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
