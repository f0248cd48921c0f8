"""Many connections of one client, silent, idle or slow, and other clients beside them: real sockets, a real agent."""

import asyncio
import contextlib
import http.client
import json
import resource
import socket
import ssl

import pytest
from tests.integration.test_broker_config import certify
from tests.integration.test_serving import LOCAL, TASK_BODY, server, unpacked
from tests.support import lone_agents, tiny_models
from tests.support.waiting import until

from edgeml_agent.http_api import tls
from edgeml_agent.http_api.app import build
from edgeml_agent.http_api.health import ServerInfo
from edgeml_agent.http_api.open_connections import CONNECTIONS_MAX, OTHER_FILES
from edgeml_agent.http_api.server import listen, serve
from edgeml_agent.serve.models import Models

#: Files that the agent may open, and connections that it therefore keeps.
FILES = 128
LIMIT = FILES - OTHER_FILES
#: More than any agent keeps, and than this one may open files.
MANY = 300
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
SLOW = b"POST /v1/models/tiny/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"
BODY = json.dumps(TASK_BODY).encode()


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    """A real agent that may open few files, and its log."""
    folder = tmp_path_factory.mktemp("agent")
    tiny_models.tiny_onnx_bundle(folder / "tiny.edgeml")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))
        try:
            server = stack.enter_context(lone_agents.running(folder, [folder / "tiny.edgeml"]))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        yield server.port, folder / "agent.log"


@contextlib.contextmanager
def connected(port, sent, *, reads=False):
    """Many connections on each of which `sent` was sent, and the answer to it read."""
    made = []
    with contextlib.ExitStack() as stack:
        for _ in range(MANY):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            connection.sendall(sent)
            if reads:
                assert connection.recv(4096).startswith(b"HTTP/1.1 200")
            made.append(connection)
        yield made


def statuses(port, context=None):
    """The statuses of a prediction and of health, each on a new connection."""
    for method, path, body in (("POST", "/v1/models/tiny/predict", BODY), ("GET", "/health/live", None)):
        if context is None:
            asking = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        else:
            asking = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)
        with contextlib.closing(asking):
            asking.request(method, path, body)
            yield asking.getresponse().status


@pytest.mark.parametrize(("sent", "reads"), [(b"", False), (GET, True), (GET[:-2], False), (SLOW, False)])
def test_others_are_answered_beside_many_connections_of_one_client(agent, sent, reads):
    """Silent ones, idle ones, unfinished heads, unfinished bodies; more than the process may open files."""
    port, _ = agent
    with connected(port, sent, reads=reads):
        for _ in range(5):
            assert list(statuses(port)) == [200, 200]


def test_many_connections_are_few_lines_of_the_log(agent):
    """One a minute, whatever is sent: also for what isn't HTTP."""
    port, log = agent
    for sent in (b"", b"no HTTP\r\n\r\n"):
        with connected(port, sent):
            assert list(statuses(port)) == [200, 200]
    lines = log.read_text().splitlines()
    listening = next(index for index, line in enumerate(lines) if "listening" in line)
    told = [line for line in lines[listening:] if "connections" in line]
    assert 1 <= len(told) <= 3
    assert not [line for line in lines if "Traceback" in line or "Invalid" in line or "Exceeded" in line]


def test_silent_connections_keep_no_tls_handshake_from_others(tmp_path):
    """They count from the moment when they are accepted: those past the limit are closed."""
    certify(tmp_path)
    context = ssl.create_default_context(cafile=tmp_path / "ca.crt")

    async def main():
        models, listener = Models(), listen("127.0.0.1", 0)
        await models.activate("tiny", *unpacked(tmp_path))
        app = build(models, ServerInfo(device="d", version="1"), LOCAL)
        encrypted = tls.context(tmp_path / "broker.crt", tmp_path / "broker.key")
        running = asyncio.create_task(serve(app, listener, encrypted))
        port = listener.getsockname()[1]
        found = await asyncio.to_thread(_statuses_beside_silent, port, context)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await models.close()
        return found

    assert asyncio.run(main()) == [200, 200]


def test_health_is_answered_beside_as_many_requests_as_the_server_takes():
    """They wait for models; one more is refused and told when to come back."""
    whole = SLOW.replace(b"1000", b"1")

    async def main():
        async with server(ready=lambda: False) as (_, client):
            port = client.base_url.port
            with contextlib.ExitStack() as stack:
                await asyncio.to_thread(lambda: stack.enter_context(connected(port, whole)))
                health = await client.get("/health/live")
                return health.status_code, await client.get("/v1/models")

    health, refused = asyncio.run(main())
    assert (health, refused.status_code, refused.headers["retry-after"]) == (200, 429, "1")
    assert refused.json()["error"]["code"] == "overloaded"


def _statuses_beside_silent(port, context):
    with connected(port, b"") as silent:
        until(lambda: sum(_is_closed(it) for it in silent) >= MANY - CONNECTIONS_MAX)
        return list(statuses(port, context))


def _is_closed(connection):
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
