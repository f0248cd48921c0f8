"""The site of the demonstration: a broker in this process, an origin and an agent as processes, on loopback ports.

Origin and agent are the programs that a fleet runs. Only the broker is a small one (amqtt, MQTT 3.1.1).
"""

from __future__ import annotations

import asyncio
import errno
import http.client
import json
import logging
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, Final

from amqtt.broker import Broker

from edgeml.demo import programs
from edgeml.fleet.registry import Registry
from edgeml.repository import Repository
from edgeml.repository.layout import DATABASE_FILE
from edgeml_core.desired import Deployment
from edgeml_core.errors import DeviceError, TransportError
from edgeml_core.lifecycle import State
from edgeml_core.messages import Report

#: Seconds until a deployment must be active; the delivery takes ten on a quiet machine.
DELIVERY_TIMEOUT_S: Final = 180.0
#: Seconds until the agent must listen; it takes one on a quiet machine.
START_TIMEOUT_S: Final = 60.0
#: Seconds for one request to the agent, which may load its model meanwhile.
REQUEST_TIMEOUT_S: Final = 30.0
#: Seconds between two looks at the registry: a tenth of what a person notices.
POLL_S: Final = 0.1
LOOPBACK: Final = "127.0.0.1"
ENDED: Final = (State.REJECTED, State.ROLLED_BACK)
_LISTENING: Final = re.compile(r'listening http="[^"]+:([0-9]+)"')


class Site:
    """A running site: the reports of its device, and requests to its agent."""

    def __init__(self, registry: Registry, device: str, port: int) -> None:
        self._registry = registry
        self._device = device
        self._port = port

    async def active(self, deployment: Deployment) -> Report:
        """Wait until the device reports that a deployment's version is active.

        Raises:
            DeviceError: the device reports a failure instead, with its code.
            TransportError: `chunk-timeout`, after `DELIVERY_TIMEOUT_S`.
        """
        deadline = time.monotonic() + DELIVERY_TIMEOUT_S
        while time.monotonic() < deadline:
            report = self._registry.reports(deployment.id).get(self._device)
            if report and report.state == State.ACTIVE:
                return report
            if report and report.state in ENDED:
                raise DeviceError(report.code, f"{deployment.id} is {report.state}: {report.message}")
            await asyncio.sleep(POLL_S)
        raise TransportError("chunk-timeout", f"{deployment.id} was not active within {DELIVERY_TIMEOUT_S:.0f} s")

    def ask(self, name: str, request: object) -> dict[str, Any]:
        """Send one request to the agent's HTTP API.

        Raises:
            TransportError: `broker-unreachable`, when the agent refuses the request or doesn't answer.
        """
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=REQUEST_TIMEOUT_S)
        try:
            connection.request("POST", f"/v1/models/{name}/predict", json.dumps(request))
            response = connection.getresponse()
            body: dict[str, Any] = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise TransportError("broker-unreachable", f"the agent doesn't answer: {error}") from error
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise TransportError("broker-unreachable", f"the agent answers {response.status}: {body}")
        return body


@asynccontextmanager
async def opened(
    folder: Path, repository: Repository, device: str, progress: Callable[[str], None]
) -> AsyncIterator[Site]:
    """Start broker, origin and agent; stop them at the end, also after an error.

    Args:
        folder: for the device's folder and the logs.
        repository: to serve.
        device: the id to enroll.
        progress: is called with each step.
    """
    broker_port = free_port()
    url = f"mqtt://{LOOPBACK}:{broker_port}"
    repository.enroll(device, labels={"site": "farm-7"}, broker=url, output=folder / device)
    async with AsyncExitStack() as stack:
        progress(f"starting a broker at {url}, an origin, and the agent {device}")
        await stack.enter_async_context(_broker(broker_port))
        origin = ("edgeml", "fleet", "serve", "--repo", str(repository.path), "--broker", url)
        await stack.enter_async_context(programs.running(folder / "origin.log", *origin))
        agent = ("edgeml_agent", "run", "--config", str(folder / device / "agent.toml"))
        await stack.enter_async_context(
            programs.running(folder / "agent.log", *agent, EDGEML_SERVE_HTTP=f"{LOOPBACK}:0")
        )
        http_port = await _listening(folder / "agent.log")
        progress(f"the agent listens at http://{LOOPBACK}:{http_port}")
        registry = stack.enter_context(closing(Registry(repository.path / DATABASE_FILE)))
        yield Site(registry, device, http_port)


class _Broker(Broker):  # type: ignore[misc] # amqtt is not followed
    """amqtt's broker, for clients that hang up at once.

    Our clients offer MQTT 5 first. amqtt refuses it and then closes the connection, which fails where the client has
    closed it already: amqtt leaves that error to asyncio, which would print a traceback.
    """

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """Handle one connection; a client that is gone meanwhile is no error."""
        try:
            with suppress(ConnectionError):
                await super().stream_connected(reader, writer, listener_name)
        except OSError as error:  # what shutdown() raises then is no ConnectionError
            if error.errno != errno.ENOTCONN:
                raise


@asynccontextmanager
async def _broker(port: int) -> AsyncIterator[None]:
    # amqtt logs a warning for each client that offers MQTT 5.
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
    broker = _Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{LOOPBACK}:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    try:
        yield
    finally:
        await broker.shutdown()


async def _listening(log: Path) -> int:
    """Wait until an agent listens, and return the port that it took.

    Raises:
        TransportError: `broker-unreachable`, after `START_TIMEOUT_S`.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if found := _LISTENING.search(await asyncio.to_thread(log.read_text)):
            return int(found[1])
        await asyncio.sleep(POLL_S)
    raise TransportError("broker-unreachable", f"the agent didn't listen within {START_TIMEOUT_S:.0f} s: {log}")


def free_port() -> int:
    """Find a loopback port that no program listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
