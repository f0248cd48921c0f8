"""The content of the page: the figures of the models' manifests, their state, and the last requests."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgeml_agent.http_api.health import ServerInfo
from edgeml_agent.serve.metrics import CANCELLED
from edgeml_agent.serve.models import Models, Served
from edgeml_core import card
from edgeml_core.manifest import Manifest
from edgeml_core.processing import AudioInput, MaskFill, PromptInput

#: `resting`: without memory until its next request. `unloaded`: without memory until an operator loads it.
State = Literal["live", "resting", "unloaded"]


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """One input; -1 in `shape` is any length."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Its accuracy beside the original's; `summary` is all of it as a sentence."""

    metric: str
    is_share: bool
    before: float
    after: float
    rows: int
    summary: str


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """The measurements of the model's export."""

    recipe: str
    size_bytes: int
    baseline_size_bytes: int
    against: str
    cosine: float
    accuracy: Accuracy | None
    warnings: tuple[str, ...]


class Requests(msgspec.Struct, frozen=True, kw_only=True):
    """Requests since the agent started; the clients of those in `left` disconnected before the answer.

    `last_ms` has the newest at the end, negative where the request failed.
    """

    waiting: int
    answered: int
    failed: int
    left: int
    last_ms: tuple[float, ...]


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model. `takes` is the kind of its preprocessing, which decides the form of a request.

    `sampling_rate_hz` is set for sound, `mask` for a text with one word to fill in, and `chats` where a language model
    has a chat template.
    """

    name: str
    version: str
    task: str
    takes: str
    target: str
    format: str
    runtime: str
    threads: int
    ram_bytes: int
    deployment: str
    state: State
    activated_at: float
    inputs: tuple[Tensor, ...]
    sampling_rate_hz: int | None
    mask: str | None
    chats: bool
    card: Card
    requests: Requests


class Everything(msgspec.Struct, frozen=True, kw_only=True):
    """The device and its models, by name."""

    device: str
    version: str
    ready: bool
    models: tuple[Model, ...]


def everything(models: Models, info: ServerInfo) -> Everything:
    """Return the present content of the page."""
    described = tuple(_model(models, name, served) for name, served in sorted(models.active().items()))
    return Everything(device=info.device, version=info.version, ready=info.ready(), models=described)


def _model(models: Models, name: str, served: Served) -> Model:
    manifest = served.manifest
    before = manifest.preprocess
    return Model(
        name=name,
        version=manifest.version,
        task=manifest.task,
        takes=str(type(before).__struct_config__.tag),
        target=manifest.target,
        format=manifest.file_format,
        runtime=manifest.runtime.engine,
        threads=manifest.runtime.threads,
        ram_bytes=manifest.needs.ram_bytes,
        deployment=served.deployment,
        state=_state(served),
        activated_at=served.activated_at,
        inputs=tuple(Tensor(name=spec.name, dtype=spec.dtype, shape=spec.shape) for spec in manifest.inputs),
        sampling_rate_hz=before.sampling_rate_hz if isinstance(before, AudioInput) else None,
        mask=manifest.postprocess.mask if isinstance(manifest.postprocess, MaskFill) else None,
        chats=isinstance(before, PromptInput) and before.chat is not None,
        card=_card(manifest),
        requests=_requests(models, name, served),
    )


def _state(served: Served) -> State:
    if served.unloaded:
        return "unloaded"
    return "live" if served.worker else "resting"


def _card(manifest: Manifest) -> Card:
    found = manifest.card
    return Card(
        recipe=found.recipe,
        size_bytes=found.size_bytes,
        baseline_size_bytes=found.baseline_size_bytes,
        against=found.parity.against,
        cosine=found.parity.cosine,
        accuracy=_accuracy(found.accuracy) if found.accuracy else None,
        warnings=found.warnings,
    )


def _accuracy(found: card.Accuracy) -> Accuracy:
    return Accuracy(
        metric=found.metric,
        is_share=found.is_fraction,
        before=found.fp32,
        after=found.int8,
        rows=found.rows,
        summary=found.summary,
    )


def _requests(models: Models, name: str, served: Served) -> Requests:
    codes = models.counts.codes(name)
    answered, left = codes.pop("ok", 0), codes.pop(CANCELLED, 0)
    last_ms = tuple(round(duration_s * 1000 * (1 if ok else -1), 3) for duration_s, ok in models.counts.last(name))
    failed = sum(codes.values())
    return Requests(waiting=served.queue_depth, answered=answered, failed=failed, left=left, last_ms=last_ms)
