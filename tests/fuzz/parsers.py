"""The parsers of bytes from elsewhere, each with a few right inputs. Each returns, or raises one of our own errors.

Whatever else one raises is a defect.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from edgeml.exporters.gguf import container
from edgeml_agent.http_api import body
from edgeml_agent.http_api.oip import codec
from edgeml_agent.http_api.openai import requests, transcriptions
from edgeml_agent.http_api.openai.requests import ChatRequest, CompletionRequest, EmbeddingsRequest
from edgeml_agent.http_api.openai.responses import ResponsesRequest
from edgeml_core import bundle, chunks, desired, golden, manifest, messages, records, relay_batch
from edgeml_core.calls import Call
from edgeml_core.desired import Deployment, FleetDocument, Wanted
from edgeml_core.errors import EdgemlError
from edgeml_core.messages import DeviceState, ModelState, Report
from edgeml_core.records import DeviceRecord, KeySignature, SignedRecord
from edgeml_core.relay_batch import RelayedMessage
from edgeml_runtime.encode import audio, sound_file
from fuzz import right
from support import samples, tiny_gguf

INPUT_MAX_BYTES: Final = 16 * 1024
PARSE_MAX_S: Final = 5
MEMORY_MAX_MB: Final = 1024


class Parser(NamedTuple):
    """One parser, and what it should take."""

    read: Callable[[bytes], object]
    right: tuple[bytes, ...]

    def parse(self, data: bytes) -> None:
        """Parse, whatever it is."""
        with contextlib.suppress(EdgemlError):
            self.read(data)


def _tensors(data: bytes) -> None:
    """A body of the Open Inference Protocol; its first two bytes tell how long its JSON is, or that it is all JSON."""
    length = int.from_bytes(data[:2], "little")
    asked = codec.decode(data[2:], length or None)
    if asked.elements() is None:
        arrays = asked.arrays()
        outputs = {"scores": next(iter(arrays.values()), np.zeros(1)), **arrays}
        codec.encode(asked, outputs, model_name="m", model_version="1", labels=("a", "b"))


def _bundle(data: bytes) -> None:
    reader = bundle.BundleReader(io.BytesIO(data))
    for entry in reader.manifest.files:
        reader.read(entry.path)


def _form(data: bytes) -> None:
    """The first line is the type's header."""
    header, _, content = data.partition(b"\n")
    body.form_field(content, header.decode("latin-1"), "image")


def _recording(data: bytes) -> None:
    """The first line is the type's header."""
    header, _, content = data.partition(b"\n")
    transcriptions.read(content, header.decode("latin-1"))


def _gguf() -> bytes:
    """The beginning of a file, with all of its metadata."""
    with tempfile.TemporaryDirectory() as folder:
        return tiny_gguf.write(Path(folder, "model.gguf")).read_bytes()[:INPUT_MAX_BYTES]


def _bodies() -> tuple[bytes, ...]:
    made = []
    for it in (one for one in right.INFERENCES if "inputs" in one.value):
        head = json.dumps(it.value).encode()
        made.append((len(head) if it.tail else 0).to_bytes(2, "little") + head + it.tail)
    return tuple(made)


def _asked_at(path: str) -> tuple[bytes, ...]:
    return tuple(json.dumps(it.value).encode() for it in right.OPENAI if it.path == path)


_CHATS: Final = _asked_at("/v1/chat/completions")
_COMPLETIONS: Final = _asked_at("/v1/completions")
_EMBEDDINGS: Final = _asked_at("/v1/embeddings")
_FUNCTION: Final = {"type": "function", "name": "stop", "parameters": {"type": "object"}, "strict": True}
_RESPONSES: Final = tuple(
    json.dumps({"model": "nurse", "stream": True, "top_p": 0.5, **it}).encode()
    for it in (
        {"input": "stop", "instructions": "be brief", "include": ["message.output_text.logprobs"]},
        {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "stop"}]},
                {"type": "function_call", "call_id": "a", "name": "stop", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "a", "output": "done"},
            ],
            "tools": [_FUNCTION],
            "tool_choice": {"type": "function", "name": "stop"},
        },
    )
)
#: Short, so that most of what is changed is not a file's content.
_FILES: Final = {"golden.msgpack": samples.GOLDEN, "model.onnx": b"graph", "model.weights": b"w"}
_ENTRIES: Final = tuple(bundle.describe(path, io.BytesIO(content)) for path, content in sorted(_FILES.items()))
_MANIFEST: Final = samples.a_manifest(files=_ENTRIES)
_CHUNK: Final = b"some of a file's bytes, " * 9
_DIGEST: Final = chunks.sha256(_CHUNK)
_BASE: Final = _CHUNK.replace(b"some", b"many")
_STATE: Final = DeviceState(online=True, session=3, models={"m": ModelState(version="1.0", state="active")})
_REPORT: Final = Report(deployment="d-1", name="m", version="1.0", state="active", session=3)
_CALL: Final = Call(id="0" * 32, session=3, kind="bench", manifest_sha256="0" * 64)
_WANTED: Final = Wanted(target="rpi4", format="onnx", arch="aarch64", cpu_features=(), manifest_sha256="0" * 64)
_DEPLOYMENT: Final = Deployment(
    id="d-1", name="m", version="1.0", selector="site=farm-7", percent=50.0, bundles=(_WANTED,)
)
_FLEET: Final = FleetDocument(fleet="farm", deployments=(_DEPLOYMENT,))
_RECORD: Final = SignedRecord(
    signed=DeviceRecord(
        fleet="farm",
        device="board-1",
        version=3,
        labels={"site": "farm-7"},
        groups=("clinic",),
        expires=datetime(2030, 1, 1, tzinfo=UTC),
    ),
    signatures=(KeySignature(keyid="0" * 64, sig="0" * 128),),
)


PARSERS: Final = {
    "oip": Parser(_tensors, _bodies()),
    "chat": Parser(lambda data: requests.parse(data, ChatRequest).item(), _CHATS),
    "completion": Parser(lambda data: requests.parse(data, CompletionRequest).item(), _COMPLETIONS),
    "embeddings": Parser(lambda data: requests.parse(data, EmbeddingsRequest).items(), _EMBEDDINGS),
    "responses": Parser(lambda data: requests.parse(data, ResponsesRequest).item(), _RESPONSES),
    "form": Parser(_form, (b"multipart/form-data; boundary=b\n" + right.FORM,)),
    "recording": Parser(_recording, (b"multipart/form-data; boundary=b\n" + right.SPEECH_FORM,)),
    "wav": Parser(audio.read_wav, tuple(right.sound(width=it, channels=it) for it in (1, 2, 3, 4))),
    "sound": Parser(lambda data: sound_file.read(data, 16_000), right.SOUNDS),
    "manifest": Parser(manifest.decode, (manifest.encode(_MANIFEST),)),
    "golden": Parser(golden.decode, (samples.GOLDEN,)),
    "bundle": Parser(_bundle, (samples.a_bundle(_MANIFEST, _FILES),)),
    "fleet": Parser(desired.decode, (desired.encode(_FLEET),)),
    "record": Parser(records.decode, (records.encode(_RECORD),)),
    "site": Parser(records.unpack_site, (records.pack_site([records.encode(_RECORD)]),)),
    "relayed": Parser(relay_batch.unpack, tuple(relay_batch.pack([RelayedMessage(device="board-1", report=_REPORT)]))),
    "state": Parser(lambda data: messages.decode(data, DeviceState), (messages.encode(_STATE),)),
    "call": Parser(lambda data: messages.decode(data, Call), (messages.encode(_CALL),)),
    "gguf": Parser(lambda data: container.parse(Path("model.gguf"), data), (_gguf(),)),
    "chunk": Parser(lambda data: chunks.from_wire(data, _DIGEST), (chunks.to_wire(_CHUNK),)),
    "difference": Parser(lambda data: chunks.from_wire(data, _DIGEST, _BASE), (chunks.to_wire_from(_BASE, _CHUNK),)),
}


def parse_any(data: bytes) -> None:
    """Parse by the parser that the first byte chooses."""
    if data:
        [*PARSERS.values()][data[0] % len(PARSERS)].parse(data[1:])


def chosen(number: int, data: bytes) -> bytes:
    """An input for a parser, with the byte that chooses it."""
    return bytes([number]) + data
