"""Whether the server lives and is ready: `/health`, `/health/live`, `/health/ready`, and the same below `/v2`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from starlette.responses import Response

from edgeml_agent.http_api import responses, schemas
from edgeml_agent.http_api.request import Request
from edgeml_agent.http_api.responses import Endpoint


@dataclass(frozen=True, kw_only=True)
class ServerInfo:
    """The state of the agent, as the APIs report it.

    Attributes:
        ready: whether the agent has loaded the models of the last run, or has tried to.
    """

    device: str
    version: str
    ready: Callable[[], bool] = lambda: True

    def health(self) -> schemas.Health:
        """Whether it lives, and is ready: the body of every answer about it."""
        return {"live": True, "ready": self.ready()}


def endpoints(info: ServerInfo) -> dict[str, Endpoint]:
    """The health endpoints. The body is the same everywhere: clients look for either field in any of them."""

    async def live(_: Request) -> Response:
        return responses.json(info.health())

    async def ready(_: Request) -> Response:
        health = info.health()
        return responses.json(health, HTTPStatus.OK if health["ready"] else HTTPStatus.SERVICE_UNAVAILABLE)

    return {"live": live, "ready": ready}
