"""The messages of the protocol: topics and payloads of `edgeml/1/FLEET/...`. Table: docs/protocol.md.

JSON but for chunks; unknown fields are ignored, since a newer sender may say more. Works on MQTT 3.1.1: nothing has to
ride in version 5 properties. What is asked of models has no message here: it is the agent's doors' business.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from edgeml_core.calls import Call, Reply
from edgeml_core.drift import Drift
from edgeml_core.errors import RejectedError

PROTOCOL: Final = "edgeml/1"
MESSAGE_MAX_BYTES: Final = 64 * 1024
#: Keys in one want message: 256 of two ids and their quoting stay under 18 KB.
WANTS_MAX: Final = 256
ANSWER_TOPIC_MAX_CHARS: Final = 256


class Topics:
    """The topics of one fleet."""

    def __init__(self, fleet: str) -> None:
        self.root = f"{PROTOCOL}/{fleet}"

    def trust(self, repo: str, file: str) -> str:
        """Retained: one file of a TUF repository. `file` is `metadata/...` or `targets/...`."""
        return f"{self.root}/trust/{repo}/{file}"

    def want(self, device: str) -> str:
        """Where `device` asks for chunks."""
        return f"{self.root}/want/{device}"

    def chunk(self, key: str) -> str:
        """Where the answer to a wire key is published for all who want it."""
        return f"{self.root}/chunk/{key}"

    def wave(self, release: str) -> str:
        """Retained: the id of the chunk of `release` that was sent last, where several devices are to have it."""
        return f"{self.root}/wave/{release}"

    def state(self, device: str) -> str:
        """Retained, and the will: what `device` is and runs."""
        return f"{self.root}/device/{device}/state"

    def report(self, device: str) -> str:
        """Where `device` reports progress and outcomes."""
        return f"{self.root}/device/{device}/report"

    def call(self, device: str) -> str:
        """Where `device` is asked for a check or a bench."""
        return f"{self.root}/device/{device}/call"

    def relay(self, device: str) -> str:
        """Where the relay `device` says what the devices of its site have said (`edgeml_core.relay_batch`)."""
        return f"{self.root}/relay/{device}"

    def reply(self, device: str) -> str:
        """Where `device` replies to calls."""
        return f"{self.root}/device/{device}/reply"

    def infer(self, device: str, model: str) -> str:
        """Where `device` is asked what a model of its makes of something."""
        return f"{self.root}/device/{device}/infer/{model}"

    def answer(self, device: str, model: str) -> str:
        """Where `device` answers who named no topic for it."""
        return f"{self.root}/device/{device}/answer/{model}"

    def client(self, client: str, device: str) -> str:
        """Where `device` answers a client that names a topic for it: a topic of this form only."""
        return f"{self.root}/client/{client}/{device}"

    def takes_answers(self, device: str, topic: str) -> bool:
        """Whether `device` may answer on a topic that somebody names; elsewhere it would speak as somebody else."""
        if len(topic) > ANSWER_TOPIC_MAX_CHARS or not topic.isprintable() or {"+", "#"} & {*topic}:
            return False
        match topic.removeprefix(f"{self.root}/").split("/"):
            case ["client", _, by] | ["device", by, "answer", _]:
                return by == device and topic.startswith(f"{self.root}/")
            case _:
                return False


class Want(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a device asks for now, by wire keys: never more than it has room to receive."""

    keys: tuple[str, ...]


class ModelState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model on a device, as its state message tells it; `drift` when there is something to say."""

    version: str
    state: str
    target: str = ""
    format: str = ""
    drift: Drift | None = None


class DeviceState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A device's retained birth, updated on change; its will is the same with `online` false.

    `session` counts connections: a will whose session is older than the newest birth is a late one, and ignored.
    `code` and `message` say why the signed files are refused; they are empty while those are believed.
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


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """How a release runs best on one device: with how many threads, how many requests a run, weights prepared or not.

    Times are medians of a run alone in ms, as exported and as tuned, of one comparison. The prediction of memory is the
    bundle's; what was measured is what the loaded model takes beside what it maps from files.
    """

    threads: int
    share: int
    prepared: bool
    saved_bytes: int
    exported_ms: float
    tuned_ms: float
    predicted_ram_bytes: int
    measured_ram_bytes: int


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a release's requests beside another version: how many were compared, and of those that differed."""

    against: str
    compared: int
    differed: int
    failed: int


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of one deployment on one device, or how far it is. Counts are in bytes; no content, ever."""

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
    """A message's payload."""
    return msgspec.json.encode(message)


def decode(payload: bytes, kind: type[Payload]) -> Payload:
    """The message of type `kind` in `payload`.

    Raises:
        RejectedError: `document-format`, when it is too long or malformed.
    """
    if len(payload) > MESSAGE_MAX_BYTES:
        raise RejectedError("document-format", f"a {kind.__name__} message is longer than {MESSAGE_MAX_BYTES} bytes")
    try:
        message = msgspec.json.decode(payload, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RejectedError("document-format", f"a {kind.__name__} message can't be read: {error}") from error
    if isinstance(message, Want) and len(message.keys) > WANTS_MAX:
        raise RejectedError("document-format", f"a want for {len(message.keys)} chunks; at most {WANTS_MAX}")
    return message
