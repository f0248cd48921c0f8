"""The ports of the agent: what updates and fetches need of the network, the disk, the runtime and the clock.

Each port has an adapter, and a working implementation in memory in `tests/support/fakes.py`. Only `edgeml_agent.main`
connects adapters to ports.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import msgspec

from edgeml_agent.options import Count, Fraction, Seconds
from edgeml_core.calls import Call, Reply
from edgeml_core.desired import FleetDocument
from edgeml_core.manifest import Manifest
from edgeml_core.messages import Compared, DeviceState, Report, Tuned
from edgeml_core.records import DeviceRecord


class Clock(Protocol):
    """A clock."""

    def now(self) -> float:
        """Return the time in seconds since 1970."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Sleep for some seconds."""
        ...


class Arrival(msgspec.Struct, frozen=True):
    """A publication for a wire key; `payload` is not verified yet."""

    key: str
    payload: bytes


class ChunkSource(Protocol):
    """A source of chunks. The caller limits how many are requested at a time.

    Raises:
        TransportError: `broker-unreachable`, from `want` and `follow`.
    """

    @property
    def position(self) -> str:
        """The id of the followed release's chunk that the origin sent last; empty if unknown."""
        ...

    async def follow(self, release: str) -> None:
        """Follow the position at which the origin sends a release, by the release's id; empty ends it."""
        ...

    async def want(self, keys: Collection[str]) -> None:
        """Request chunks by wire keys; a repeated request asks for another copy."""
        ...

    async def receive(self, timeout_s: float) -> Arrival | None:
        """Return the next publication for a requested key; None if none came in time."""
        ...

    async def drop(self, keys: Collection[str]) -> None:
        """Cancel the requests for these keys; never fails."""
        ...


class TrustSource(Protocol):
    """A source of signed files; none of them is verified yet."""

    def read(self, repo: str, file: str) -> bytes | None:
        """Return one file of a repository, `metadata/...` or `targets/...`; None if it doesn't exist. May block.

        Raises:
            TransportError: the file can't be fetched now.
        """
        ...

    def record(self, device: str) -> bytes | None:
        """Return the newest record of a device; None where there is none. May block. Errors are those of `read`."""
        ...

    def site(self, site: str) -> bytes | None:
        """Return the records of a site's devices together, for its relay; None where there are none."""
        ...


class Trust(Protocol):
    """The verified content of the signed repositories. Methods block: call them in a thread."""

    def desired(self) -> FleetDocument:
        """Refresh both repositories and return the newest fleet document.

        Raises:
            RejectedError: the metadata is forged, old, expired or malformed.
            TransportError: the metadata can't be fetched.
        """
        ...

    def record(self) -> DeviceRecord:
        """Return the newest record of this device, by the keys of the last refresh; older ones are refused from now on.

        Raises:
            RejectedError: `device-revoked`; `record-missing`; `rollback-attempt`; `signature-invalid`;
                `trust-expired`; `document-format`.
            TransportError: the record can't be fetched. DeviceError: it can't be stored.
        """
        ...

    def manifest(self, stem: str, digest: str) -> bytes:
        """Return the manifest of a release on which both repositories agree.

        Args:
            digest: the manifest's SHA-256 in the fleet document.

        Raises:
            RejectedError: the repositories disagree, or the content has another digest; `release-withdrawn`.
            TransportError: the manifest can't be fetched.
        """
        ...

    def withdrawn(self) -> frozenset[str]:
        """Return the withdrawn releases, as far as this device has seen, by the stems of their bundles."""
        ...


class SiteRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The verified record of a device of a relay's site, and its encoding."""

    record: DeviceRecord
    line: bytes


class StatusSink(Protocol):
    """The destination of the device's state and reports. It fills in `session` and `online`."""

    def publish_state(self, state: DeviceState) -> None:
        """Publish this state of the device now, and again after each reconnection."""
        ...

    def report(self, report: Report) -> None:
        """Send a report, now or when the connection is back."""
        ...


class CallChannel(Protocol):
    """The channel for remote calls to this device and the replies."""

    @property
    def session(self) -> int:
        """The number of the connection."""
        ...

    async def called(self) -> bytes:
        """Return the next call's payload, which is not verified yet."""
        ...

    def reply(self, reply: Reply) -> None:
        """Send a reply, now or when the connection is back."""
        ...


class Link(StatusSink, CallChannel, Protocol):
    """The connection to the fleet. It may be down at any time."""

    async def run(self) -> None:
        """Keep the connection up until cancelled; then close it in order.

        Raises:
            UsageError: the first connection can't use the settings.
        """
        ...

    async def announced(self) -> None:
        """Return when signed files may have changed since the last call, or when the connection is new."""
        ...


class TopicHandler(Protocol):
    """A handler of messages on the device's connection that aren't for the device itself."""

    def connected(self) -> None:
        """Handle a new connection."""
        ...

    def on_message(self, topic: str, payload: bytes) -> None:
        """Handle a message, which is not verified."""
        ...


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """The probe's result: the worst distance from the golden outputs, times in ms, peak memory in bytes."""

    min_cosine: float
    max_abs: float
    first_ms: float
    median_ms: float
    peak_rss_bytes: int


class Prober(Protocol):
    """A child process that runs a model apart from the serving ones."""

    def admit(self, manifest: Manifest) -> None:
        """Check, before a byte is fetched, that this host can run the model.

        Raises:
            DeviceError: `runtime-missing` or `memory-short`.
        """
        ...

    async def probe(self, folder: Path, manifest: Manifest) -> Probed:
        """Load the model, run its golden inputs and compare the outputs.

        Raises:
            DeviceError: `probe-crashed`, `golden-mismatch`, `runtime-failed` or `runtime-missing`.
        """
        ...

    async def tune(self, folder: Path, manifest: Manifest) -> Tuned:
        """Find the fastest way to run the model here, at low priority, and store it in `folder`.

        Raises:
            DeviceError: `probe-crashed`, `golden-mismatch`, `runtime-failed` or `store-failed`.
        """
        ...

    async def answer(self, folder: Path, manifest: Manifest, call: Call) -> Reply:
        """Probe or benchmark the model as a call requests, at low priority; errors are in the reply.

        Raises:
            DeviceError: `probe-crashed`.
        """
        ...


class ShadowPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a comparison between a new version and the serving one, before activation.

    Both get the same `requests`. After `max_s` seconds those compared so far decide, since a device without traffic
    can't wait forever. At most the fraction `max_disagreement` of them may differ. The new version answers the fraction
    `canary` of the requests.
    """

    requests: Count = 100
    max_s: Seconds = 600.0
    max_disagreement: Fraction = 0.1
    canary: Fraction = 0.0


class ModelServer(Protocol):
    """The serving models."""

    async def activate(self, name: str, folder: Path, manifest: Manifest, deployment: str = "") -> None:
        """Serve the bundle in `folder` as `name`; the version before it answers until the new one is warm.

        The version before then answers what it has, see `retired`. It delays the next `activate` of `name` alone.

        Raises:
            DeviceError: the bundle can't be loaded or run; the version before still serves.
        """
        ...

    async def deactivate(self, name: str) -> None:
        """Stop serving `name`, whose accepted requests are still answered; no error when it isn't served."""
        ...

    async def retired(self, name: str | None = None) -> None:
        """Wait until replaced versions of `name`, by default of all models, have answered and freed their memory."""
        ...

    async def compare(self, name: str, folder: Path, manifest: Manifest, policy: ShadowPolicy) -> Compared | None:
        """Give the bundle in `folder` the requests of the serving version of `name`, within the policy's limits.

        Returns:
            The counts; None if there is nothing to compare with.

        Raises:
            DeviceError: `shadow-disagreed`; or as for `activate`.
        """
        ...

    async def reload(self, name: str) -> None:
        """Load the serving version again, with its new tuning; the one loaded before answers until then.

        Raises:
            UsageError: `model-unknown`. DeviceError: as for `activate`.
        """
        ...
