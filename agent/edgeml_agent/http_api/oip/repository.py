"""The Open Inference Protocol's view of all models: index, load and unload, statistics.

The repository is what the fleet gave this device: a model can be freed and loaded again, not replaced from here.

Source: Triton's extension_model_repository.md and extension_statistics.md.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeml_agent.http_api import body as bodies
from edgeml_agent.http_api import responses, schemas
from edgeml_agent.serve.metrics import Tally
from edgeml_agent.serve.models import Models, Served
from edgeml_core.errors import UsageError

_NS: Final = 1e9
_Asked = TypeVar("_Asked", bound=msgspec.Struct)


class Index(msgspec.Struct, frozen=True):
    """Which models are asked for; `ready` leaves out those that are unloaded."""

    ready: bool = False


class Change(msgspec.Struct, frozen=True):
    """What is said beside a load or an unload."""

    parameters: dict[str, object] = {}


def routes(models: Models) -> list[Route]:
    """The routes of this part of the door."""

    async def index(request: Request) -> Response:
        asked = await _read(request, Index)
        listed = sorted(models.active().items())
        return responses.json([_indexed(name, it) for name, it in listed if not (asked.ready and it.unloaded)])

    async def load(request: Request) -> Response:
        asked = await _read(request, Change)
        if asked.parameters:
            hint = "a device serves what its fleet signed; deploy another version"
            raise UsageError("input-invalid", "a model can't be loaded with other files or another config", hint)
        await models.load(request.path_params["name"])
        return responses.json({})

    async def unload(request: Request) -> Response:
        await _read(request, Change)
        await models.unload(request.path_params["name"])
        return responses.json({})

    async def statistics(request: Request) -> Response:
        name, version = request.path_params.get("name"), request.path_params.get("version")
        chosen = models.active() if name is None else {name: models.find(name, version)}
        found: schemas.Statistics = {
            "model_stats": [_statistics(models, name, it) for name, it in sorted(chosen.items())]
        }
        return responses.json(found)

    return [
        Route("/v2/repository/index", index, methods=["POST"]),
        Route("/v2/repository/models/{name}/load", load, methods=["POST"]),
        Route("/v2/repository/models/{name}/unload", unload, methods=["POST"]),
        Route("/v2/models/stats", statistics, methods=["GET"]),
        Route("/v2/models/{name}/stats", statistics, methods=["GET"]),
        Route("/v2/models/{name}/versions/{version}/stats", statistics, methods=["GET"]),
    ]


async def _read(request: Request, kind: type[_Asked]) -> _Asked:
    """The body; an empty one asks for nothing special."""
    try:
        return msgspec.json.decode(await bodies.read(request) or b"{}", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError("input-invalid", f"the request can't be read: {error}", "send {}") from error


def _indexed(name: str, served: Served) -> schemas.Indexed:
    version = served.manifest.version
    if served.unloaded:
        return {"name": name, "version": version, "state": "UNAVAILABLE", "reason": "unloaded"}
    return {"name": name, "version": version, "state": "READY", "reason": ""}


def _statistics(models: Models, name: str, served: Served) -> schemas.ModelStatistics:
    good, bad = models.counts.tally(name)
    ran = served.worker.ran if served.worker else Tally()
    none = Tally()
    return {
        "name": name,
        "version": served.manifest.version,
        "last_inference": int(models.counts.last_s(name) * 1e3),
        "inference_count": good.count,
        "execution_count": ran.count,
        "inference_stats": {
            "success": _duration(good),
            "fail": _duration(bad),
            "queue": _duration(Tally(good.count, max(0.0, good.total_s - ran.total_s))),
            "compute_input": _duration(none),
            "compute_infer": _duration(ran),
            "compute_output": _duration(none),
            "cache_hit": _duration(none),
            "cache_miss": _duration(none),
        },
        "batch_stats": [],
        "memory_usage": [],
    }


def _duration(tally: Tally) -> schemas.Duration:
    return {"count": tally.count, "ns": int(tally.total_s * _NS)}
