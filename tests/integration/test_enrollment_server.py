"""The address for tokens and what strangers do to it, with real sockets and TLS."""

import asyncio
import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from tests.unit.sdk.test_credentials import Events

from edgeml.fleet import enrollment as service
from edgeml.fleet.enrollment import EnrollmentServer
from edgeml.repository import Repository, certificates, layout
from edgeml_agent.commands import enroll
from support.ports import free_port
from support.waiting import TIMEOUT_S, until, until_async


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server on loopback: its port, its repository and its events."""
    monkeypatch.setattr(service, "RENEW_EVERY_S", 0.2)
    repository, port, events = Repository.init(tmp_path / "repo", passphrase=""), free_port(), Events()
    loop, server = asyncio.new_event_loop(), EnrollmentServer(layout.opened(repository.path), "mqtts://host", events)
    task = loop.create_task(server.run("localhost", port))

    def serve():
        # The runner ends the connections that strangers still hold.
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(asyncio.wait({task}))

    thread = threading.Thread(target=serve)
    thread.start()
    until(lambda: "enrollment" in events.names, "it listens")
    yield port, repository, events
    loop.call_soon_threadsafe(task.cancel)
    thread.join(TIMEOUT_S)


@pytest.fixture
def brief(monkeypatch):
    """Exchanges have little time, where strangers let it pass."""
    monkeypatch.setattr(service, "EXCHANGE_TIMEOUT_S", 2.0)


def exchanged(port, method, path, body=None):
    """The status and the body of one exchange."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=TIMEOUT_S)
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def can_enroll(port, repository, folder):
    """Whether a device gets in."""
    token = repository.make_tokens().tokens[0]
    return enroll.enroll(f"https://localhost:{port}", token, folder, device=folder.name).device == folder.name


def test_other_paths_and_malformed_requests_are_refused(served, tmp_path):
    """By a status and a code; nothing ends the server."""
    port, repository, events = served
    for method, path in (("GET", "/"), ("POST", "/v1/authority"), ("GET", "/v1/enroll"), ("PUT", "/v1/enroll")):
        assert exchanged(port, method, path)[0] == 404
    status, body = exchanged(port, "POST", "/v1/enroll", b"{}")
    assert (status, json.loads(body)["error"]["code"]) == (400, "document-format")
    with pytest.raises((http.client.HTTPException, OSError)):
        exchanged(port, "POST", "/v1/enroll", b"x" * 100_000)
    assert "enroll-refused" in events.names
    assert can_enroll(port, repository, tmp_path / "barn-1")


@pytest.mark.usefixtures("brief")
def test_strangers_that_hold_connections_lose_them(served, tmp_path, monkeypatch):
    """Without TLS, in the middle of a handshake, and with half a request: each ends after its time."""
    port, repository, _ = served
    held = [socket.create_connection(("localhost", port)) for _ in range(service.CONNECTIONS_MAX + 20)]
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with contextlib.suppress(OSError):
            held[0].sendall(b"\x16\x03\x01")
            held[1].sendall(b"GET / HTTP/1.1\r\n\r\n")
            half = context.wrap_socket(held.pop(2), server_hostname="localhost")
            held.append(half)
            half.sendall(b"POST /v1/enroll HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{")
        for it in held:
            it.settimeout(TIMEOUT_S)
            with contextlib.suppress(OSError):
                while it.recv(1024):
                    pass
        monkeypatch.setattr(service, "EXCHANGE_TIMEOUT_S", TIMEOUT_S)
        assert can_enroll(port, repository, tmp_path / "barn-2")
    finally:
        for it in held:
            it.close()


@pytest.mark.usefixtures("brief")
def test_answered_stranger_that_never_closes_loses_the_connection(served):
    """TLS waits 30 s for its close. It isn't one of the few connections any more, so thousands could take all files."""
    port, _, _ = served
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("localhost", port)) as plain:
        stranger = context.wrap_socket(plain, server_hostname="localhost")
        stranger.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert stranger.recv(1024).startswith(b"HTTP/1.1 404")
        with socket.socket(fileno=stranger.detach()) as silent:
            silent.settimeout(25.0)
            with contextlib.suppress(ConnectionResetError):
                while silent.recv(1024):
                    pass


def test_refusals_do_not_fill_the_log(served):
    """Strangers with made-up tokens and names: one event a second."""
    port, _, events = served
    asked = json.dumps({"secret": "AAAAAAAAAAAAAAAAAAAAAA==", "device": "x\x1b" * 5000, "csr": ""}).encode()[:16_000]
    short = json.dumps({"secret": "AAAAAAAAAAAAAAAAAAAAAA==", "device": "\x1b[2J", "csr": ""}).encode()
    begun_s = time.monotonic()
    answers = [exchanged(port, "POST", "/v1/enroll", body) for body in (asked, *([short] * 20))]
    took_s = time.monotonic() - begun_s
    assert {status for status, _ in answers} == {400}
    assert json.loads(answers[-1][1])["error"]["code"] == "token-unknown"
    assert events.names.count("enroll-refused") <= 1 + took_s / service.REFUSED_EVENT_EVERY_S


def test_taken_port_is_named(served, tmp_path):
    """Another service of the machine has it."""
    port, repository, events = served
    other = EnrollmentServer(layout.opened(repository.path), "mqtts://host", events)
    with pytest.raises(service.UsageError, match=f"port {port}"):
        asyncio.run(other.run("localhost", port))


def presented(port):
    """The certificate that the server shows."""
    return ssl.get_server_certificate(("localhost", port))


def test_certificate_is_renewed_while_the_server_runs(served, monkeypatch):
    """A host may run for years. While another one can't be written it serves the present one, and an event tells."""
    port, repository, events = served
    first, key = presented(port), repository.path / service.FOLDER / "broker.key"
    key.unlink()
    key.mkdir()
    now = layout.utc_now()
    monkeypatch.setattr(layout, "utc_now", lambda: now + timedelta(days=certificates.SERVER_DAYS / 2 + 1))
    until(lambda: "certificates-failed" in events.names, "it tells")
    assert presented(port) == first
    key.rmdir()
    until(lambda: presented(port) != first, "it serves another one")


def test_due_certificate_is_served_while_the_key_of_its_authority_lies_offline(tmp_path, monkeypatch):
    """A host that starts then tells the date, and serves it until it expires."""
    repository, port, now = Repository.init(tmp_path / "repo", passphrase=""), free_port(), layout.utc_now()

    async def shown(days, awaited):
        """The certificate of a server that starts that many days from now, once it has told of an event."""
        monkeypatch.setattr(layout, "utc_now", lambda: now + timedelta(days=days))
        events = Events()
        server = EnrollmentServer(layout.opened(repository.path), "mqtts://host", events)
        serving = asyncio.create_task(server.run("localhost", port))
        await until_async(lambda: awaited in events.names or serving.done())
        if serving.done():
            await serving
        certificate = await asyncio.to_thread(presented, port)
        serving.cancel()
        await asyncio.wait({serving})
        return certificate

    first = asyncio.run(shown(0, "enrollment"))
    (repository.path / "keys" / "broker-ca.pem").unlink()
    assert asyncio.run(shown(certificates.SERVER_DAYS / 2 + 1, "certificate-due")) == first
    with pytest.raises(service.UsageError, match=r"broker-ca\.pem"):
        asyncio.run(shown(certificates.SERVER_DAYS + 1, "enrollment"))


def test_enrollments_that_wait_for_the_repository_take_no_thread_of_others(tmp_path, monkeypatch):
    """A publication holds it for minutes. Chunks and reports need the threads of the event loop meanwhile."""
    monkeypatch.setattr(service, "EXCHANGE_TIMEOUT_S", TIMEOUT_S)
    repository, port, events = Repository.init(tmp_path / "repo", passphrase=""), free_port(), Events()
    folder = layout.opened(repository.path)

    def board(token, name):
        enroll.enroll(f"https://localhost:{port}", token, tmp_path / name, device=name)

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(4))
        server = EnrollmentServer(folder, "mqtts://host", events)
        serving = asyncio.create_task(server.run("localhost", port))
        await until_async(lambda: "enrollment" in events.names)
        boards, tokens = ThreadPoolExecutor(8), repository.make_tokens(count=8).tokens
        with folder.locked():
            asked = [
                loop.run_in_executor(boards, board, token, f"barn-{number}") for number, token in enumerate(tokens)
            ]
            await until_async(lambda: server._open == len(asked))
            await asyncio.sleep(1.0)
            async with asyncio.timeout(TIMEOUT_S / 2):
                await asyncio.to_thread(int)
        await asyncio.gather(*asked)
        serving.cancel()
        await asyncio.wait({serving})

    asyncio.run(main())
    assert len(repository.devices()) == 8
