"""The pages of the dashboard, rendered on the server."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec
from starlette.responses import RedirectResponse, Response, StreamingResponse

from edgeml.bundles import Bundle
from edgeml.fleet import status
from edgeml.fleet.rollouts.plan import ENDED, Phase, Rollout
from edgeml.fleet.web import api, rendering
from edgeml.fleet.web.exchange import HEADERS, Exchange
from edgeml.fleet.web.gateway import Endpoint
from edgeml.fleet.web.operations import ANSWER_MAX_S, EVENTS, HTML, DeviceQuery, NewCall
from edgeml.fleet.web.threads import Threads
from edgeml.fleet.web.view_model import Recent, SeenReport, ViewModel
from edgeml.report import page as report_page
from edgeml_core.calls import LINES, LINES_MAX, Reply
from edgeml_core.card import Measurements
from edgeml_core.errors import EdgemlError, OverloadedError, RejectedError

#: Seconds between two looks at a rollout for a stream of events, and after which a browser opens it again.
LOOK_EVERY_S: Final = 2.0
STREAM_MAX_S: Final = 300.0
#: Streams at a time.
STREAMS_MAX: Final = 100
#: Acts that each phase of a rollout permits.
_ACTS: Final[dict[Phase, tuple[str, ...]]] = {
    Phase.RUNNING: ("pause", "abort"),
    Phase.PAUSED: ("resume", "abort"),
    Phase.AWAITING: ("approve", "abort"),
    Phase.COMPLETED: ("rollback",),
}
#: Milliseconds after which a browser asks again for a stream that ended.
_RETRY: Final = "retry: 3000\n\n"


@dataclass(frozen=True, kw_only=True)
class _PublishedBundle(Bundle):
    """A bundle that is a release: its measurements are those that were signed with it."""

    signed: Measurements | None

    @property
    def measurements(self) -> Measurements | None:
        """The figures of the host that exported the bundle."""
        return self.signed


class Pages:
    """The endpoints of the pages.

    Args:
        view: the fleet.
        threads: read it for streams.
    """

    def __init__(self, view: ViewModel, threads: Threads) -> None:
        self._view = view
        self._threads = threads
        self._streams = 0
        #: Of each rollout that is or was followed; all its streams look together.
        self._looks: dict[str, Recent[str]] = {}

    def endpoints(self) -> dict[str, Endpoint]:
        """Return the endpoints, by name."""
        return {
            "overview_page": self._overview,
            "devices_page": self._devices,
            "device_page": self.device,
            "rollouts_page": lambda it: rendering.page("rollouts.html", it, rollouts=self._view.rollouts()),
            "rollout_page": self._rollout,
            "rollout_events": self._events,
            "steer_form": self._steer,
            "releases_page": lambda it: rendering.page("releases.html", it, releases=self._view.releases()),
            "release_page": self._release,
            "card_page": self._card,
            "audit_page": self._audit,
            "static_file": lambda it: rendering.static_file(it.params["file"]),
        }

    def _overview(self, exchange: Exchange) -> Response:
        open_rollouts = [it for it in self._view.rollouts() if it.phase not in ENDED]
        return rendering.page("overview.html", exchange, overview=self._view.overview(), rollouts=open_rollouts)

    def _devices(self, exchange: Exchange) -> Response:
        query: DeviceQuery = exchange.query  # type: ignore[assignment]
        found = api.devices(self._view, query)
        chosen = {"selector": query.selector, "state": query.state, "version": query.version}
        return rendering.page(
            "devices.html",
            exchange,
            query=query,
            page=found,
            states=status.CHOSEN_STATES,
            more=_link("/devices", **chosen, limit=query.limit, after=found.after),
            first=_link("/devices", **chosen, limit=query.limit),
            csv=_link("/api/v1/devices", **chosen, format="csv"),
            json=_link("/api/v1/devices", **chosen, limit=10_000),
        )

    def device(
        self, exchange: Exchange, asked: NewCall | None = None, reply: Reply | None = None, status: int = 200
    ) -> Response:
        """Return the page of a device, with the reply to a call where there is one."""
        found = self._view.device(exchange.params["device"])
        plot = _plot(found.reports)
        answer = {"asked": asked, "reply": reply, "answer_max_s": ANSWER_MAX_S, "lines": LINES, "lines_max": LINES_MAX}
        return rendering.page("device.html", exchange, status, found=found, plot=plot, **answer)

    def _rollout(self, exchange: Exchange) -> Response:
        found = self._view.rollout(exchange.params["rollout"])
        acts = _acts(found.rollout)
        return rendering.page("rollout.html", exchange, found=found, acts=acts, is_live=found.rollout.is_open)

    def _steer(self, exchange: Exchange) -> Response:
        api.steer(self._view, exchange)
        return RedirectResponse(f"/rollouts/{quote(exchange.params['rollout'], safe='')}", 303)

    def _events(self, exchange: Exchange) -> Response:
        name = exchange.params["rollout"]
        latest = self._digest(name)
        if self._streams >= STREAMS_MAX:
            message = f"{self._streams} pages follow rollouts already"
            raise OverloadedError("overloaded", message, "load the page again later", retry_after_s=30)
        return StreamingResponse(self._changes(name, exchange.last_event, latest), media_type=EVENTS)

    async def _changes(self, name: str, seen: str, latest: str) -> AsyncIterator[str]:
        """Yield an event at each change of a rollout; its page then asks for the new content.

        A page that has seen no event yet gets one at once: the rollout may have changed since the page was made.
        After a pause in its connection the browser names the last event that it has seen.
        """
        self._streams += 1
        look = self._looks.setdefault(name, Recent(lambda: self._digest(name)))
        try:
            yield _RETRY
            for _ in range(int(STREAM_MAX_S / LOOK_EVERY_S)):
                yield f"id: {latest}\nevent: changed\ndata: 1\n\n" if latest != seen else ": still there\n\n"
                seen = latest
                await asyncio.sleep(LOOK_EVERY_S)
                if self._threads.is_ending:
                    return
                with contextlib.suppress(EdgemlError):  # the page shows it when it is loaded again
                    latest = await self._threads.run(look.get)
        finally:
            self._streams -= 1

    def _digest(self, name: str) -> str:
        return hashlib.sha256(msgspec.json.encode(self._view.rollout(name))).hexdigest()

    def _release(self, exchange: Exchange) -> Response:
        return rendering.page("release.html", exchange, found=self._view.release(exchange.params["release"]))

    def _card(self, exchange: Exchange) -> Response:
        """Return the page of `edgeml inspect --html`. Its style stands inside, so the policy names its hash."""
        found = self._view.release(exchange.params["release"])
        manifest = found.release.manifest
        bundle = _PublishedBundle(
            path=Path(f"{manifest.stem}.edgeml"),
            manifest=manifest,
            manifest_sha256=found.release.manifest_sha256,
            size_bytes=manifest.size_bytes,
            signed=found.measurements,
        )
        policy = HEADERS["Content-Security-Policy"].replace("style-src", f"style-src '{report_page.style_hash()}'")
        headers = {"Content-Security-Policy": policy}
        return Response(report_page.render(bundle), media_type=f"{HTML}; charset=utf-8", headers=headers)

    def _audit(self, exchange: Exchange) -> Response:
        query: Any = exchange.query
        entries = self._view.audit(last=query.last, before=query.before)
        try:
            checked, broken = self._view.check_audit(), ""
        except RejectedError as error:
            checked, broken = None, error.message
        older = (
            _link("/audit", last=query.last, before=entries[-1].number) if entries and entries[-1].number > 1 else ""
        )
        return rendering.page("audit.html", exchange, entries=entries, checked=checked, broken=broken, older=older)


def _acts(rollout: Rollout) -> Sequence[str]:
    acts = _ACTS.get(rollout.phase, ())
    return (*acts, "approve") if rollout.plan.approve and rollout.phase is Phase.RUNNING else acts


def _link(path: str, **query: object) -> str:
    values = {name: value for name, value in query.items() if value != ""}
    return f"{path}?{urlencode(values)}" if values else path


def _plot(reports: Sequence[SeenReport]) -> dict[str, list[float | None]]:
    """Return the series of a device's plot, the oldest first: times, a run's milliseconds, and megabytes of memory."""
    measured = [it for it in reversed(reports) if it.report.probe_ms or it.report.tuned]
    return {
        "seen_s": [it.seen_s for it in measured],
        "run_ms": [(it.report.tuned.tuned_ms if it.report.tuned else it.report.probe_ms) or None for it in measured],
        "memory_mb": [it.report.tuned.measured_ram_bytes / 1e6 if it.report.tuned else None for it in measured],
    }
