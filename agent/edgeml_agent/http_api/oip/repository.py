"""The Open Inference Protocol's view of all models: index, load and unload, statistics.

The fleet decides which models a device has: clients can free a model and load it again, not replace it.

Source: Triton's extension_model_repository.md and extension_statistics.md.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec
from starlette.responses import Response

from edgeml_agent.http_api import body as bodies
from edgeml_agent.http_api import json_body, responses, schemas
from edgeml_agent.http_api.request import Request
from edgeml_agent.http_api.responses import Endpoint
from edgeml_agent.serve.metrics import Tally
from edgeml_agent.serve.models import Models, Served
from edgeml_core.errors import UsageError

_NS: Final = 1e9
_Body = TypeVar("_Body", bound=msgspec.Struct)


class Index(msgspec.Struct, frozen=True):
    """Which models to list; `ready` leaves out those that are unloaded."""

    ready: bool = False


class Change(msgspec.Struct, frozen=True):
    """The body of a load or an unload."""

    parameters: dict[str, object] = {}


def endpoints(models: Models) -> dict[str, Endpoint]:
    """The endpoints of repository and statistics."""

    async def index(request: Request) -> Response:
        query = await _read(request, Index)
        listed = sorted(models.active().items())
        return responses.json([_indexed(name, it) for name, it in listed if not (query.ready and it.unloaded)])

    async def load(request: Request) -> Response:
        change = await _read(request, Change)
        if change.parameters:
            hint = "deploy another version: a device serves only releases that its fleet signed"
            raise UsageError("input-invalid", "a model can't be loaded with other files or another config", hint)
        await models.load(request.params["name"])
        return responses.json({})

    async def unload(request: Request) -> Response:
        await _read(request, Change)
        await models.unload(request.params["name"])
        return responses.json({})

    async def statistics(request: Request) -> Response:
        name, version = request.params.get("name"), request.params.get("version")
        chosen = models.active() if name is None else {name: models.find(name, version)}
        found: schemas.Statistics = {
            "model_stats": [_statistics(models, name, it) for name, it in sorted(chosen.items())]
        }
        return responses.json(found)

    return {"index": index, "load": load, "unload": unload, "statistics": statistics}


async def _read(request: Request, kind: type[_Body]) -> _Body:
    """Read the body; an empty one has the defaults."""
    try:
        return json_body.decode(await bodies.read(request) or b"{}", kind)
    except ValueError as error:
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
