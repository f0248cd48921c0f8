"""What the agent's shell asks of the world. Each port has one adapter, and one double in `tests/support/fakes.py`.

The shell (`edgeml_agent.update.agent`) and the fetcher know these Protocols; only `edgeml_agent.main` wires adapters
to them.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import msgspec

from edgeml_core.calls import Call, Reply
from edgeml_core.desired import FleetDocument
from edgeml_core.manifest import Manifest
from edgeml_core.messages import Compared, DeviceState, Report, Tuned


class Clock(Protocol):
    """Time."""

    def now(self) -> float:
        """Seconds since 1970."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class Arrival(msgspec.Struct, frozen=True):
    """A publication for a wire key; nothing about `payload` is trusted yet."""

    key: str
    payload: bytes


class ChunkSource(Protocol):
    """Where chunks come from. Whoever wants them decides how many may be on their way.

    Raises:
        TransportError: `broker-unreachable`, from `want` and `follow`.
    """

    @property
    def position(self) -> str:
        """The id of the chunk that was sent last of the followed release; empty when nobody says."""
        ...

    async def follow(self, release: str) -> None:
        """Hear where the wave of a release is, by the release's id; empty ends it."""
        ...

    async def want(self, keys: Collection[str]) -> None:
        """Ask for chunks by wire keys; asking again for one asks for another copy."""
        ...

    async def receive(self, timeout_s: float) -> Arrival | None:
        """The next publication for a wanted key; None when none came in time."""
        ...

    async def drop(self, keys: Collection[str]) -> None:
        """Want these no longer; never fails."""
        ...


class TrustSource(Protocol):
    """Where signed files come from. Nothing about them is trusted yet."""

    def read(self, repo: str, file: str) -> bytes | None:
        """One file of a repository, `metadata/...` or `targets/...`; None when there is none. May block.

        Raises:
            TransportError: it can't be had now.
        """
        ...


class Trust(Protocol):
    """What of the signed files can be believed. Methods block: call them in a thread."""

    def desired(self) -> FleetDocument:
        """The newest fleet document, after refreshing both repositories.

        Raises:
            RejectedError: the metadata is forged, old, expired or malformed. TransportError: it can't be had.
        """
        ...

    def manifest(self, stem: str, digest: str) -> bytes:
        """The manifest of a release on which both repositories agree; `digest` is what the fleet document says.

        Raises:
            RejectedError: they don't agree, or its content is another. TransportError: it can't be had.
        """
        ...


class StatusSink(Protocol):
    """What the device says goes out this way. `session` and `online` are filled in here."""

    def show(self, state: DeviceState) -> None:
        """Let this be the device's state, also after reconnecting."""
        ...

    def report(self, report: Report) -> None:
        """Send a report, now or when the connection is back."""
        ...


class CallLine(Protocol):
    """The calls to this device, and the replies to them."""

    @property
    def session(self) -> int:
        """The number of the connection."""
        ...

    async def called(self) -> bytes:
        """The next call; nothing about it is trusted yet."""
        ...

    def reply(self, reply: Reply) -> None:
        """Send a reply, now or when the connection is back."""
        ...


class Link(StatusSink, CallLine, Protocol):
    """The connection to the fleet. It may be away at any time."""

    async def run(self) -> None:
        """Keep the connection up until cancelled; then say goodbye."""
        ...

    async def announced(self) -> None:
        """Return when signed files may have changed since it was last called, or the connection is new."""
        ...


class TopicHandler(Protocol):
    """Who hears, on the device's connection, what isn't for the device itself."""

    def connected(self) -> None:
        """The connection is new."""
        ...

    def on_message(self, topic: str, payload: bytes) -> None:
        """Take a message in; nothing about it is trusted."""
        ...


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """What the probe found: worst distance from the golden outputs, times, peak memory."""

    min_cosine: float
    max_abs: float
    first_ms: float
    median_ms: float
    peak_rss_bytes: int


class Prober(Protocol):
    """A model tried where it can do no harm."""

    def admit(self, manifest: Manifest) -> None:
        """Check, before a byte is fetched, that this machine could run it.

        Raises:
            DeviceError: `runtime-missing` or `memory-short`.
        """
        ...

    async def probe(self, folder: Path, manifest: Manifest) -> Probed:
        """Load the model, run its golden inputs, compare.

        Raises:
            DeviceError: `probe-crashed`, `golden-mismatch`, `runtime-failed` or `runtime-missing`.
        """
        ...

    async def tune(self, folder: Path, manifest: Manifest) -> Tuned:
        """Find the best way to run the model here, at low priority, and remember it in `folder`.

        Raises:
            DeviceError: `probe-crashed`, `golden-mismatch`, `runtime-failed` or `store-failed`.
        """
        ...

    async def answer(self, folder: Path, manifest: Manifest, call: Call) -> Reply:
        """Probe or bench the model as a call asks, at low priority; errors are in the reply.

        Raises:
            DeviceError: `probe-crashed`.
        """
        ...


class ShadowPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a new version may serve, after both have had the same requests.

    `requests` are compared; after `max_s` seconds what was compared until then decides, since a device that nobody asks
    can't wait forever. Of those compared at most the share `max_disagreement` may differ. The share `canary` of the
    requests the new version answers.
    """

    requests: int = 100
    max_s: float = 600.0
    max_disagreement: float = 0.1
    canary: float = 0.0


class ModelServer(Protocol):
    """The models that answer."""

    async def activate(self, name: str, folder: Path, manifest: Manifest, deployment: str = "") -> None:
        """Serve the bundle in `folder` as `name`; the version before it answers until this one is warm.

        Raises:
            DeviceError: it can't be loaded or run; what was served before still is.
        """
        ...

    async def compare(self, name: str, folder: Path, manifest: Manifest, rule: ShadowPolicy) -> Compared | None:
        """Give the bundle in `folder` the same requests as the version of `name` that serves, until the rule decides.

        Returns:
            What came of it; None when there is nothing to compare with.

        Raises:
            DeviceError: `shadow-disagreed`; or as for `activate`.
        """
        ...

    async def reload(self, name: str) -> None:
        """Load the model's version anew, as it was tuned meanwhile; the one loaded before answers until then.

        Raises:
            UsageError: `model-unknown`. DeviceError: as for `activate`.
        """
        ...
