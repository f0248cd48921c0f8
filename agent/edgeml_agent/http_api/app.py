"""The gateway: every HTTP request takes one way, past one list of checks, to the endpoint of its operation.

`build` makes it, `server` runs it. Limits of connections and of heads are in `connections`, limits of bodies in
`body`; a model's queue has its own in `serve.worker`.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edgeml_agent import log
from edgeml_agent.http_api import errors, health, metrics, openapi, page, predict, reply, request
from edgeml_agent.http_api.auth import Rules
from edgeml_agent.http_api.health import ServerInfo
from edgeml_agent.http_api.metrics import Further
from edgeml_agent.http_api.oip import repository
from edgeml_agent.http_api.oip import routes as oip
from edgeml_agent.http_api.openai import routes as openai
from edgeml_agent.http_api.openapi.operations import APIS
from edgeml_agent.http_api.request import BodyMemory, Request
from edgeml_agent.http_api.responses import Endpoint
from edgeml_agent.http_api.router import Route, Router
from edgeml_agent.serve.models import Models
from edgeml_core.errors import EdgemlError

__all__ = ["Gateway", "ServerInfo", "build"]

#: Seconds that a request waits for the models of the last run; clients give up about then.
START_MAX_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.02
_BROKEN: Final = EdgemlError("internal", "the server failed", "see its log for the details")


def build(models: Models, info: ServerInfo, rules: Rules, further: Further = lambda: iter(())) -> Gateway:
    """Make the application of all operations.

    Args:
        models: the models to serve; the agent may change them while it runs.
        rules: `edgeml_agent.http_api.auth.rules` makes them for an address.
        further: yields the metrics of the rest of the agent.
    """
    endpoints: dict[str, Endpoint] = {
        **oip.endpoints(models, info),
        **repository.endpoints(models),
        **predict.endpoints(models),
        **reply.endpoints(models),
        **openai.endpoints(models),
        **health.endpoints(info),
        **page.endpoints(models, info),
        **metrics.endpoints(models, info, further),
        **openapi.endpoints(info, needs_token=rules.token is not None),
    }
    operations = [it for operations in APIS.values() for it in operations]
    return Gateway(Router(operations, endpoints), info, rules)


class Gateway:
    """An ASGI application.

    When models are ready and the body has arrived, it suspends only where the endpoint does. A request to a brief model
    is then answered without giving up the event loop.
    """

    def __init__(self, router: Router, info: ServerInfo, rules: Rules) -> None:
        self._router = router
        self._info = info
        self._rules = rules
        self._memory = BodyMemory()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, unless its client disconnects before."""
        route = self._router.find(scope["method"], scope["path"])
        incoming = Request(scope, receive, route.params, self._memory)
        if route.is_cancellable:
            scope[request.IS_CANCELLABLE] = True
        try:
            response = await self._answer(route, incoming)
            await response(scope, receive, send)
        except asyncio.CancelledError:
            if request.HAS_LEFT not in scope:
                raise
        finally:
            incoming.release()

    async def _answer(self, route: Route, incoming: Request) -> Response:
        """Check the request on entry, in this order, then call its endpoint, which reads and checks the body."""
        try:
            incoming.check_head()
            self._rules.check(incoming, is_public=route.is_public)
            if route.waits:  # health doesn't, and finds room always
                incoming.check_room()
                if not self._info.ready():
                    await self._until_ready()
            return await route.endpoint(incoming)
        except EdgemlError as failure:
            return errors.response(route.error_form, failure)
        except Exception as error:  # noqa: BLE001 - a defect met by one request must not end others
            log.defect("request failed", error, path=incoming.path)
            return errors.response(route.error_form, _BROKEN)

    async def _until_ready(self) -> None:
        """Wait for the models of the last run; past the limit the endpoint answers without them."""
        until_s = time.monotonic() + START_MAX_S
        while not self._info.ready() and time.monotonic() < until_s:  # noqa: ASYNC110 - once in a run
            await asyncio.sleep(_LOOK_EVERY_S)
