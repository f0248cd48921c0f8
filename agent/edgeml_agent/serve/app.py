"""The application: all doors over one set of live models, with one way in and one way for errors to leave.

`build` makes it; `edgeml_agent.serve.server` runs it. Each door is a file of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeml_agent.serve import health, memory, metrics, oip, openai, page, predict, responses
from edgeml_agent.serve.access import Access, Rules
from edgeml_agent.serve.bounds import Bounded, UntilReady
from edgeml_agent.serve.health import ServerInfo
from edgeml_agent.serve.metrics import Metric
from edgeml_agent.serve.models import Models
from edgeml_agent.serve.worker import QUEUE_MAX
from edgeml_core.errors import EdgemlError, UsageError

__all__ = ["ServerInfo", "build"]


def build(models: Models, info: ServerInfo, rules: Rules) -> Starlette:
    """The application.

    Args:
        models: what it serves; whoever activates models goes on doing so while it runs.
        rules: `edgeml_agent.serve.access.rules` makes them for an address.
    """
    app = Starlette(
        routes=[
            *predict.routes(models),
            *openai.routes(models),
            *oip.routes(models, info),
            *health.routes(info, root="/health"),
            *page.routes(models, info),
            *_page_routes(models, info),
        ],
        middleware=[Middleware(Access, rules), Middleware(UntilReady, info), Middleware(Bounded)],
        exception_handlers={EdgemlError: _failed, HTTPException: _not_routed, Exception: _broken},
    )
    app.router.redirect_slashes = False
    return app


def _page_routes(models: Models, info: ServerInfo) -> list[Route]:
    async def whole(_: Request) -> Response:
        return responses.json({"live": True, "ready": info.ready()})

    async def scraped(_: Request) -> Response:
        return Response(metrics.render(_metrics(models, info)), media_type=metrics.CONTENT_TYPE)

    return [Route("/health", whole, methods=["GET"]), Route("/metrics", scraped, methods=["GET"])]


def _metrics(models: Models, info: ServerInfo) -> Iterator[Metric]:
    live = models.active().items()
    agent = {"device": info.device, "version": info.version}
    yield Metric("edgeml_agent_info", "gauge", "The agent; always 1.", (("", agent, 1),))
    versions = tuple(
        ("", {"model": name, "version": m.manifest.version, "target": m.manifest.target, "deployment": m.deployment}, 1)
        for name, m in live
    )
    yield Metric("edgeml_model_info", "gauge", "The version that answers; always 1.", versions)
    depths = tuple(("", {"model": name}, m.queue_depth) for name, m in live)
    yield Metric("edgeml_queue_depth", "gauge", "Requests accepted and not yet answered.", depths)
    yield Metric("edgeml_queue_limit", "gauge", "Requests of one model that are accepted.", (("", {}, QUEUE_MAX),))
    counts = models.counts
    yield Metric("edgeml_requests_total", "counter", "Requests by outcome.", tuple(counts.totals()))
    seconds = "Time from the door to the answer, waiting included."
    yield Metric("edgeml_request_duration_seconds", "histogram", seconds, tuple(counts.latencies()))
    if (resident := memory.resident_bytes()) is not None:
        yield Metric("process_resident_memory_bytes", "gauge", "Resident memory.", (("", {}, resident),))


async def _failed(request: Request, failure: Exception) -> Response:
    if not isinstance(failure, EdgemlError):
        return await _broken(request, failure)
    return responses.error(request.url.path, failure)


async def _not_routed(request: Request, failure: Exception) -> Response:
    status = failure.status_code if isinstance(failure, HTTPException) else HTTPStatus.NOT_FOUND
    unknown = UsageError("route-unknown", f"nothing is served at {request.method} {request.url.path}")
    return responses.error(request.url.path, unknown, status)


async def _broken(request: Request, _: Exception) -> Response:
    """What went wrong is in the log; the client learns only that it did."""
    return responses.error(request.url.path, EdgemlError("internal", "the server failed", "its log has the details"))
