"""The messages of the protocol: topics and payloads of `edgeml/1/FLEET/...`. Table: docs/protocol.md.

Payloads are JSON, except chunks. Unknown fields are ignored, since a newer sender may add some. MQTT 3.1.1 suffices: no
message needs version 5 properties. Inference requests over MQTT have no message here: `edgeml_agent.mqtt_api` has them.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from edgeml_core import decoding
from edgeml_core.calls import Call, Reply
from edgeml_core.drift import Drift
from edgeml_core.errors import RejectedError

PROTOCOL: Final = "edgeml/1"
#: Bytes of a message other than a chunk: a device's state with dozens of models has a few KiB.
MESSAGE_MAX_BYTES: Final = 64 * 1024
#: Keys in one want message: 256 of two ids with their quotes stay under 18 KB.
WANTS_MAX: Final = 256
#: `edgeml_core.trust.METADATA_DIR`; that module imports python-tuf.
_METADATA_DIR: Final = "metadata"

#: Parts of a topic: `edgeml/1/FLEET/device/DEVICE/infer/...`.
_KIND_PART: Final = 3
_DEVICE_PARTS: Final = 2


class Topics:
    """The topics of one fleet."""

    def __init__(self, fleet: str) -> None:
        self.root = f"{PROTOCOL}/{fleet}"

    def trust(self, repo: str, file: str) -> str:
        """Return the retained topic of one file of a TUF repository. `file` is `metadata/...` or `targets/...`.

        A topic has no dots, since RabbitMQ takes them for slashes: `metadata/5.snapshot.json` is at
        `metadata/snapshot/5`, and `targets/DIGEST.NAME` at `targets/DIGEST`. `metadata/root.json` is the newest root.
        """
        folder, slash, name = file.rpartition("/")
        first, *rest = name.split(".")
        levels = [*reversed(rest[:-1]), first] if folder == _METADATA_DIR else [first]
        return f"{self.root}/trust/{repo}/{folder}{slash}{'/'.join(levels)}"

    def record(self, device: str) -> str:
        """Return the retained topic of a device's signed record (`edgeml_core.records`)."""
        return f"{self.root}/record/{device}"

    def site(self, site: str) -> str:
        """Return the retained topic of the records of a site's devices, for its relay; a site's dots become `~`."""
        return f"{self.root}/site/{site.replace('.', '~')}"

    def want(self, device: str) -> str:
        """Return the topic on which `device` requests chunks."""
        return f"{self.root}/want/{device}"

    def chunk(self, key: str) -> str:
        """Return the topic on which the payload for a wire key is published, for all devices that request it."""
        return f"{self.root}/chunk/{key}"

    def wave(self, release: str) -> str:
        """Return the retained topic of a release's position: the chunk that was last sent to several devices."""
        return f"{self.root}/wave/{release}"

    def state(self, device: str) -> str:
        """Return the retained topic, also of the will, for the state of `device`."""
        return f"{self.root}/device/{device}/state"

    def report(self, device: str) -> str:
        """Return the topic on which `device` reports progress and outcomes."""
        return f"{self.root}/device/{device}/report"

    def call(self, device: str) -> str:
        """Return the topic of calls to `device`."""
        return f"{self.root}/device/{device}/call"

    @property
    def notice(self) -> str:
        """The topic on which the host publishes notices for operators."""
        return f"{self.root}/notice"

    def relay(self, device: str) -> str:
        """Return the topic on which the relay `device` forwards messages of its site (`edgeml_core.relay_batch`)."""
        return f"{self.root}/relay/{device}"

    def reply(self, device: str) -> str:
        """Return the topic on which `device` replies to calls."""
        return f"{self.root}/device/{device}/reply"

    def renew(self, device: str) -> str:
        """Return the topic on which `device` requests its next certificate (`edgeml_core.enrollment`)."""
        return f"{self.root}/renew/{device}"

    def certificate(self, device: str) -> str:
        """Return the topic on which the host answers the requests of `device` for a certificate."""
        return f"{self.root}/certificate/{device}"

    def infer(self, device: str, model: str, client: str) -> str:
        """Return the topic of `client`'s inference requests for a model of `device`; no other client may write it."""
        return f"{self.root}/device/{device}/infer/{model}/{client}"

    @staticmethod
    def is_inference(topic: str) -> bool:
        """Return whether clients write to a topic, in any fleet: it has inference requests."""
        return topic.split("/")[_KIND_PART::_DEVICE_PARTS][:2] == ["device", "infer"]

    def answer(self, device: str, model: str) -> str:
        """Return the topic on which `device` answers requests that name no topic."""
        return f"{self.root}/device/{device}/answer/{model}"

    def client(self, client: str, device: str) -> str:
        """Return the topic on which `device` answers `client`: the only one that a request may name."""
        return f"{self.root}/client/{client}/{device}"


class Want(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The chunks that a device requests now, by wire keys: never more than it has room to receive."""

    keys: tuple[str, ...]


class ModelState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model in a device's state; `drift` is None if there are too few items."""

    version: str
    state: str
    target: str = ""
    format: str = ""
    drift: Drift | None = None


class DeviceState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A device's retained state, updated on change; its will is the same with `online` false.

    `session` counts connections: a will with an older session than the newest state is late, and ignored. `code` and
    `message` say why the signed files are refused; they are empty while the files are trusted.
    """

    online: bool
    session: int
    agent: str = ""
    arch: str = ""
    cpu: str = ""
    cpu_features: tuple[str, ...] = ()
    memory_bytes: int = 0
    runtimes: dict[str, str] = {}
    models: dict[str, ModelState] = {}
    code: str = ""
    message: str = ""


class Tuned(msgspec.Struct, frozen=True, kw_only=True, rename={"batch_size": "share"}):
    """A release's tuning for one device: threads, requests per run (`share` on the wire), whether weights are prepared.

    Times are medians of a run alone in ms, as exported and as tuned, from one comparison. The predicted memory is the
    bundle's; the measured one is the loaded model's, without the pages mapped from files.
    """

    threads: int
    batch_size: int
    prepared: bool
    saved_bytes: int
    exported_ms: float
    tuned_ms: float
    predicted_ram_bytes: int
    measured_ram_bytes: int


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a comparison: the other version, the number of requests, and how many differed or failed."""

    against: str
    compared: int
    differed: int
    failed: int


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome or progress of one deployment on one device. Counts are in bytes; no content, ever."""

    deployment: str
    name: str
    version: str
    state: str
    session: int
    code: str = ""
    message: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    wire_bytes: int = 0
    probe_ms: float = 0.0
    tuned: Tuned | None = None
    compared: Compared | None = None


Message = Want | DeviceState | Report | Call | Reply
Payload = TypeVar("Payload", Want, DeviceState, Report, Call, Reply)


def encode(message: Message) -> bytes:
    """Encode a message."""
    return msgspec.json.encode(message)


def decode(payload: bytes, kind: type[Payload]) -> Payload:
    """Decode a message of type `kind`.

    Raises:
        RejectedError: `document-format`, when it is too long or malformed, or has a number that is too large.
    """
    if len(payload) > MESSAGE_MAX_BYTES:
        raise RejectedError("document-format", f"a {kind.__name__} message is longer than {MESSAGE_MAX_BYTES} bytes")
    try:
        message = decoding.from_json(payload, kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RejectedError("document-format", f"a {kind.__name__} message can't be read: {error}") from error
    check_numbers(message)
    if isinstance(message, Want) and len(message.keys) > WANTS_MAX:
        raise RejectedError("document-format", f"a want for {len(message.keys)} chunks; at most {WANTS_MAX}")
    return message


def check_numbers(decoded: object) -> None:
    """Check that each whole number of a decoded message has 64 bits at most: no reader makes a float of 10**400.

    Raises:
        RejectedError: `document-format`.
    """
    try:
        msgspec.msgpack.encode(decoded)  # takes no other ones, while JSON has no bound
    except OverflowError as error:
        raise RejectedError("document-format", "a message has a whole number of more than 64 bits") from error
