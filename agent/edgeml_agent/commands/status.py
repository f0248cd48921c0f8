"""The store's state of this device and its models, for `edgeml-agent status` and `models`. Needs no broker."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from edgeml_agent.settings import Settings
from edgeml_agent.store import locks, tuning
from edgeml_agent.store.database import ModelRecord, Store
from edgeml_agent.store.releases import Releases
from edgeml_agent.trust.withdrawals import withdrawn
from edgeml_core.errors import EdgemlError
from edgeml_core.lifecycle import State
from edgeml_core.messages import Tuned


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One model. `version` is the serving one, empty if none serves; `wanted_version` is of the newest update.

    `code` and `message` are the newest update's error, or why the serving release's manifest can't be read.
    `tuned` is its tuning for this device, if any. `withdrawn`: the release key has withdrawn the serving version.
    """

    name: str
    version: str
    target: str
    format: str
    size_bytes: int
    manifest_sha256: str
    previous_sha256: str
    state: State
    deployment: str
    wanted_version: str
    code: str
    message: str
    tuned: Tuned | None
    withdrawn: bool


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The device. `store` is the folder of its releases, `session` counts its connections."""

    device: str
    fleet: str
    broker: str
    store: str
    labels: Mapping[str, str]
    running: bool
    session: int
    models: tuple[ModelStatus, ...]


def device(settings: Settings) -> DeviceStatus:
    """Return the state of the device and its models.

    Raises:
        DeviceError: `store-failed`.
    """
    store = Store(settings.store.dir)
    try:
        releases, stems = Releases(settings.store.dir, settings.store.max_bytes), withdrawn(settings.store.dir)
        return DeviceStatus(
            device=settings.device.id,
            fleet=settings.device.fleet,
            broker=str(settings.broker.url),
            store=str(settings.store.dir),
            labels=settings.device.labels,
            running=locks.is_held(settings.store.dir / locks.AGENT),
            session=store.session(),
            models=tuple(_model(record, releases, stems) for record in store.records().values()),
        )
    finally:
        store.close()


def _model(record: ModelRecord, releases: Releases, withdrawn_stems: frozenset[str]) -> ModelStatus:
    manifest, code, message = None, record.code, record.message
    try:
        manifest = releases.read(record.active).manifest if record.active else None
    except EdgemlError as error:  # the others must be shown beside a damaged one
        code, message = error.code, error.message
    found = tuning.read(releases.folder(record.active), manifest) if manifest else None
    return ModelStatus(
        name=record.name,
        version=manifest.version if manifest else "",
        target=manifest.target if manifest else "",
        format=manifest.file_format if manifest else "",
        size_bytes=manifest.size_bytes if manifest else 0,
        manifest_sha256=record.active,
        previous_sha256=record.previous,
        state=record.state,
        deployment=record.deployment,
        wanted_version=record.version,
        code=code,
        message=message,
        tuned=found,
        withdrawn=manifest is not None and manifest.stem in withdrawn_stems,
    )
