"""The demonstration's site: an embedded broker here, an origin and an agent as processes, all on free loopback ports.

They are the programs that a fleet runs, with nothing replaced; only the broker is a small one (amqtt, MQTT 3.1.1).
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

from amqtt.broker import Broker

from edgeml import repository
from edgeml.demo import programs
from edgeml.fleet.registry import DATABASE_FILE, Registry
from edgeml_core.desired import Deployment
from edgeml_core.errors import DeviceError, TransportError
from edgeml_core.lifecycle import State
from edgeml_core.messages import Report

DELIVERY_TIMEOUT_S: Final = 180.0
REQUEST_TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.1
LOOPBACK: Final = "127.0.0.1"
ENDED: Final = (State.REJECTED, State.ROLLED_BACK)


class Site:
    """A running site: what its device reports, and questions to its agent."""

    def __init__(self, registry: Registry, device: str, port: int) -> None:
        self._registry = registry
        self._device = device
        self._port = port

    async def active(self, deployment: Deployment) -> Report:
        """Wait until the device reports that a deployment's version is active.

        Raises:
            DeviceError: it reports a failure instead, with its code. TransportError: it reports nothing in time.
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
        """One request to the agent's task door.

        Raises:
            TransportError: the agent refused it or didn't answer.
        """
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=REQUEST_TIMEOUT_S)
        try:
            connection.request("POST", f"/v1/models/{name}/predict", json.dumps(request))
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise TransportError("broker-unreachable", f"the agent doesn't answer: {error}") from error
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise TransportError("broker-unreachable", f"the agent answers {response.status}: {answer}")
        return answer


@asynccontextmanager
async def opened(folder: Path, fleet: Path, device: str, tell: Callable[[str], None]) -> AsyncIterator[Site]:
    """Start broker, origin and agent; stop them at the end, whatever happened.

    Args:
        folder: for the device's folder and the logs.
        fleet: the repository to serve.
        device: the id to enroll.
        tell: is told each step.
    """
    broker_port, http_port = free_port(), free_port()
    url = f"mqtt://{LOOPBACK}:{broker_port}"
    repository.enroll(fleet, device, labels={"site": "farm-7"}, broker_url=url, out_dir=folder / device)
    async with AsyncExitStack() as stack:
        tell(f"starting a broker at {url}, an origin, and the agent {device} at http://{LOOPBACK}:{http_port}")
        await stack.enter_async_context(_broker(broker_port))
        await stack.enter_async_context(
            programs.running(folder / "origin.log", "edgeml", "fleet", "serve", "--repo", str(fleet), "--broker", url)
        )
        agent = ("edgeml_agent", "run", "--config", str(folder / device / "agent.toml"))
        await stack.enter_async_context(
            programs.running(folder / "agent.log", *agent, EDGEML_SERVE_HTTP=f"{LOOPBACK}:{http_port}")
        )
        registry = stack.enter_context(closing(Registry(fleet / DATABASE_FILE)))
        yield Site(registry, device, http_port)


@asynccontextmanager
async def _broker(port: int) -> AsyncIterator[None]:
    # It warns of each client that tries MQTT 5 first, as ours do.
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
    broker = Broker(
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


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
