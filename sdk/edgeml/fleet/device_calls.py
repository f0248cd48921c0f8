"""Calls of an operator to one device of a repository, each recorded in the audit log before it is sent.

`call` sends them. Commands that have a bundle file and no repository call by `edgeml.verify.device`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgeml.fleet import call
from edgeml.fleet.call import DeviceConnection
from edgeml.fleet.registry import Registry
from edgeml.repository import RepositoryFolder, layout
from edgeml.repository.releases import releases
from edgeml_core import calls
from edgeml_core.calls import Call, Kind, Reply, Timing
from edgeml_core.errors import UsageError
from edgeml_core.messages import ModelState

#: Return the models of the device's last state by name; None when the device isn't enrolled.
ReadModels = Callable[[str], dict[str, ModelState] | None]


class DeviceCalls:
    """Calls to the devices of one repository.

    Args:
        repository: its releases name bundles, and its audit log has the calls.
        models: returns the models that a device reported.
        connect: returns how devices are reached; called once the call is known to be right.
        actor: of the audit log's entries; None is the user of this process.
    """

    def __init__(
        self,
        repository: RepositoryFolder,
        models: ReadModels,
        connect: Callable[[], DeviceConnection],
        *,
        actor: str | None = None,
    ) -> None:
        self._actor = actor
        self._repository = repository
        self._models = models
        self._connect = connect

    def ask(self, device: str, kind: Kind, *, wait_s: float = call.WAIT_S, **asked: Any) -> Reply:  # noqa: ANN401
        """Record a call, send it, and return the reply; arguments are those of `record`, and seconds for the reply.

        Raises:
            UsageError, RejectedError: as `record`, and as `call.CallConnection.ask`. TransportError: as there.
            EdgemlError: the error in the device's reply.
        """
        connection, made = self.record(device, kind, **asked)
        reply = call.ask(connection, device, made, wait_s=wait_s)
        if reply.refused is not None:
            raise reply.refused.error(f"on {device}: ")
        return reply

    def record(
        self,
        device: str,
        kind: Kind,
        *,
        model: str | None = None,
        timing: Timing = Timing(),  # noqa: B008 - frozen
        lines: int = calls.LINES,
    ) -> tuple[DeviceConnection, Call]:
        """Record a call in the audit log, and return where and what to send.

        Args:
            device: its id.
            kind: the kind of call.
            model: runs this model's bundle, for `verify` and `bench`; None is the only one that the device has.
            timing: of a benchmark.
            lines: number of log lines.

        Raises:
            UsageError: `device-unknown`; `usage`, without a model where the device has several, or with an unknown one;
                `release-unknown`; `repo-invalid`.
        """
        if not 1 <= lines <= calls.LINES_MAX:
            raise UsageError("usage", f"{lines} log lines; a device returns 1 to {calls.LINES_MAX}", "ask for fewer")
        models = self._models(device)
        if models is None:
            raise UsageError("device-unknown", f"no device {device!r} is enrolled", "see `edgeml fleet devices`")
        if model is not None and kind not in calls.OF_BUNDLES:
            raise UsageError("usage", f"a call for {kind} takes no model", "leave the model out")
        digest = self._bundle(device, models, model) if kind in calls.OF_BUNDLES else ""
        connection = self._connect()
        with self._repository.locked():
            facts = {"kind": kind, "manifest_sha256": digest}
            self._repository.audit.append("call", device, facts, now=layout.utc_now(), actor=self._actor)
        return connection, call.new(kind, manifest_sha256=digest, timing=timing, lines=lines)

    def _bundle(self, device: str, models: dict[str, ModelState], model: str | None) -> str:
        """Find the bundle of a model that the device has, by its last state.

        Returns:
            The manifest's digest.
        """
        if model is None and len(models) != 1:
            message = f"{device} has {len(models)} models: {', '.join(sorted(models)) or 'none'}"
            raise UsageError("usage", message, "name one after the kind of call")
        name = next(iter(models)) if model is None else model
        if name not in models:
            raise UsageError("usage", f"{device} reports no model {name!r}", "see `edgeml fleet devices`")
        state = models[name]
        for it in releases(self._repository):
            made = it.manifest
            if (made.name, made.version, made.target) == (name, state.version, state.target) and (
                made.file_format == state.format
            ):
                return it.manifest_sha256
        message = f"{device} reports {name} {state.version}, which this repository hasn't released"
        raise UsageError("release-unknown", message, "name the repository that the model came from")


def reported_models(repository: RepositoryFolder, registry: Registry, device: str) -> dict[str, ModelState] | None:
    """Return the models in a device's last state; None when the device isn't enrolled."""
    if device not in repository.labels():
        return None
    seen = registry.devices(first=device, last=device).get(device)
    return {} if seen is None else dict(seen.state.models)
