"""The manifest: all that a device must know of a bundle before it fetches a byte of it.

Its SHA-256 is the release's identity, since it lists the digest of every file and chunk. Decoding is strict: a
malformed manifest is refused with all its problems. Format: docs/bundle-format.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal, get_args

import msgspec

from edgeml_core import chunks, decoding, names
from edgeml_core.card import Card
from edgeml_core.errors import RejectedError
from edgeml_core.processing import (
    AudioInput,
    Boxes,
    Decoded,
    DecodedText,
    DecodedTranscript,
    Generation,
    ImageInput,
    MaskFill,
    Postprocess,
    Preprocess,
    PromptInput,
    QuestionInput,
    Span,
    TensorInput,
    TextInput,
    Transcript,
    outputs_named,
)

FORMAT: Final = "edgeml/1"
MANIFEST_NAME: Final = "manifest.json"
#: Bytes of a manifest: the digests of 64 GiB of chunks don't fit, those of any model for a board do.
MANIFEST_MAX_BYTES: Final = 8 * 1024 * 1024
#: Bytes of all files; number of files; characters of a path; problems in one message.
BUNDLE_MAX_BYTES: Final = 64 * 1024**3
FILES_MAX: Final = 1024
PATH_MAX_CHARS: Final = 200
PROBLEMS_SHOWN_MAX: Final = 20

Engine = Literal["onnxruntime", "litert"]
Format = Literal["onnx", "tflite"]
Task = Literal[
    "text-classification",
    "token-classification",
    "fill-mask",
    "question-answering",
    "feature-extraction",
    "text-generation",
    "text2text-generation",
    "image-classification",
    "object-detection",
    "audio-classification",
    "automatic-speech-recognition",
    "tensors",
]
DType = Literal["float32", "float16", "int64", "int32", "int8", "uint8", "bool", "string"]

#: The data types by name; numpy has the same names.
DTYPES: Final[dict[str, DType]] = {name: name for name in get_args(DType)}
#: The engine of each file format.
ENGINES: Final[dict[Format, Engine]] = {"onnx": "onnxruntime", "tflite": "litert"}

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_PATH: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the bundle: `chunks` are the SHA-256 of its 64 KiB parts in order."""

    path: str
    size_bytes: int
    sha256: str
    chunks: tuple[str, ...]


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input or output of the model; -1 in `shape` is any length."""

    name: str
    dtype: DType
    shape: tuple[int, ...]


class CpuNeeds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The CPU that the bundle was quantized for; `features` as Linux names them in /proc/cpuinfo."""

    arch: Literal["aarch64", "x86_64"]
    features: tuple[str, ...] = ()


class RuntimeNeeds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The runtime that must be installed, and its settings. `options` are the engine's own keys."""

    engine: Engine
    min_version: str
    bad_versions: tuple[str, ...] = ()
    threads: int
    options: dict[str, str] = {}


class Golden(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Inputs and outputs that a device must reproduce before it activates the bundle (see `edgeml_core.golden`).

    `min_cosine` and `max_abs` bound each output tensor against its golden one, per target and runtime.
    """

    path: str
    cases: int
    min_cosine: float
    max_abs: float


class Needs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Memory and disk space that the device must have free, in bytes."""

    ram_bytes: int
    disk_bytes: int


class Provenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The source and the tools of the bundle; never content of calibration or evaluation data."""

    source_sha256: str
    tools: dict[str, str]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model for one target in one format."""

    format: Literal["edgeml/1"]
    name: str
    version: str
    target: str
    task: Task
    cpu: CpuNeeds
    runtime: RuntimeNeeds
    model: str
    files: tuple[FileEntry, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    postprocess: Postprocess
    golden: Golden
    needs: Needs
    card: Card
    provenance: Provenance

    @property
    def file_format(self) -> Format:
        """The model's file format, which follows from its engine."""
        return "onnx" if self.runtime.engine == "onnxruntime" else "tflite"

    @property
    def stem(self) -> str:
        """The bundle's file name without suffix."""
        return names.bundle_stem(self.name, self.version, self.target, self.file_format)

    @property
    def size_bytes(self) -> int:
        """The total size of the bundle's files."""
        return sum(entry.size_bytes for entry in self.files)


def encode(manifest: Manifest) -> bytes:
    """Encode a manifest; equal manifests give equal bytes."""
    return msgspec.json.encode(manifest, order="deterministic")


def decode(data: bytes) -> Manifest:
    """Decode a manifest.

    Raises:
        RejectedError: `bundle-format`, with every problem found.
    """
    if len(data) > MANIFEST_MAX_BYTES:
        raise RejectedError("bundle-format", f"the manifest is longer than {MANIFEST_MAX_BYTES} bytes")
    try:
        manifest = decoding.from_json(data, Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RejectedError("bundle-format", f"the manifest can't be read: {error}") from error
    if problems := list(_problems(manifest)):
        listed = "; ".join(problems[:PROBLEMS_SHOWN_MAX])
        raise RejectedError("bundle-format", f"the manifest has {len(problems)} problem(s): {listed}")
    return manifest


def _problems(manifest: Manifest) -> Iterator[str]:
    for field, text in (("name", manifest.name), ("target", manifest.target)):
        if not names.is_name(text):
            yield f"{field} {text!r} is not a valid name"
    if not names.is_version(manifest.version):
        yield f"version {manifest.version!r} is not valid"
    yield from _file_problems(manifest)
    paths = {entry.path for entry in manifest.files}
    for field, path in _references(manifest):
        if path not in paths:
            yield f"{field} names {path!r}, which is not among the files"
    for field, number in _quantities(manifest):
        if number < 0:
            yield f"{field} is negative"
    if not manifest.inputs or not manifest.outputs:
        yield "inputs or outputs are missing"
    yield from _meaning_problems(manifest)


def _meaning_problems(manifest: Manifest) -> Iterator[str]:
    inputs, outputs = ({spec.name for spec in specs} for specs in (manifest.inputs, manifest.outputs))
    for output in outputs_named(manifest.postprocess):
        if output not in outputs:
            yield f"postprocess names output {output!r}, which the model doesn't have"
    for past, present in _caches(manifest.postprocess):
        if len(past) != len(present) or not inputs.issuperset(past):
            yield "postprocess pairs past inputs with other present outputs"
    pairs = ((QuestionInput, Span), (PromptInput, Generation))
    for before, after in pairs:
        if isinstance(manifest.preprocess, before) != isinstance(manifest.postprocess, after):
            yield f"only one of {before.__name__} and {after.__name__} is present"
    if not isinstance(manifest.preprocess, TensorInput) and any(spec.dtype == "string" for spec in manifest.inputs):
        yield "an input has strings, but the preprocessing makes none"
    yield from _answer_problems(manifest)


def _caches(postprocess: Postprocess) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yield inputs with the outputs that become them in the next run."""
    if isinstance(postprocess, Generation | Decoded):
        yield postprocess.past, postprocess.present
    if isinstance(postprocess, Decoded):
        yield postprocess.cross, postprocess.cross_present


def _answer_problems(manifest: Manifest) -> Iterator[str]:
    match manifest.postprocess:
        case MaskFill(mask=mask):
            yield from _mask_problems(manifest, mask)
        case Transcript() as transcript:
            yield from _transcript_problems(manifest, transcript)
        case Decoded() as decoded:
            yield from _decoded_problems(manifest, decoded)
        case Boxes() as boxes:
            yield from _box_problems(manifest, boxes)


def _mask_problems(manifest: Manifest, mask: str) -> Iterator[str]:
    if type(manifest.preprocess) is not TextInput:
        yield "postprocess fills a mask, but the model takes no text"
    if not mask:
        yield "postprocess fills a mask, but names none"


def _transcript_problems(manifest: Manifest, transcript: Transcript) -> Iterator[str]:
    if not isinstance(manifest.preprocess, AudioInput):
        yield "postprocess has a transcript, but the model takes no sound"
    if transcript.blank not in transcript.tokens:
        yield f"postprocess has the blank {transcript.blank!r}, which is none of its tokens"


def _decoded_problems(manifest: Manifest, decoded: Decoded) -> Iterator[str]:
    preprocess = manifest.preprocess
    if not decoded.start or not decoded.stop_ids:
        yield "postprocess has a decoded text without a token that begins or ends it"
    named = [*decoded.start, *decoded.stop_ids, *decoded.suppressed, *decoded.suppressed_first]
    if isinstance(decoded, DecodedTranscript):
        named += [*decoded.task, *decoded.languages.values()]
    vocabulary = next((it.shape[-1] for it in manifest.outputs if it.name == decoded.output and it.shape), -1)
    if any(not 0 <= token < vocabulary for token in named):
        yield f"postprocess names a token outside of the {vocabulary} of output {decoded.output!r}"
    if isinstance(decoded, DecodedTranscript):
        if not (isinstance(preprocess, AudioInput) and preprocess.log_mel):
            yield "postprocess has a decoded transcript, but the model takes no spectrum of a sound"
        if decoded.language not in (None, *decoded.languages):
            yield f"postprocess has the language {decoded.language!r}, which is none of its languages"
    elif type(preprocess) is not TextInput:
        yield "postprocess has a decoded text, but the model takes no text"


def _box_problems(manifest: Manifest, boxes: Boxes) -> Iterator[str]:
    if not isinstance(manifest.preprocess, ImageInput):
        yield "postprocess has boxes, but the model takes no image"
    if not boxes.labels:
        yield "postprocess has boxes, but no labels"
    if not 0 <= boxes.threshold <= 1:
        yield f"postprocess.threshold {boxes.threshold} is not between 0 and 1"
    wanted = {boxes.logits: len(boxes.labels) + 1, boxes.boxes: 4}
    for spec in manifest.outputs:
        if spec.name in wanted and spec.shape[-1:] not in ((-1,), (wanted[spec.name],)):
            yield f"output {spec.name!r} must have {wanted[spec.name]} values for each box"


def _file_problems(manifest: Manifest) -> Iterator[str]:
    if not 1 <= len(manifest.files) <= FILES_MAX:
        yield f"{len(manifest.files)} files; 1 to {FILES_MAX} are allowed"
    paths = [entry.path for entry in manifest.files]
    if paths != sorted(paths):
        yield "files are not sorted by path"
    if len({path.lower() for path in paths}) != len(paths):
        yield "two files have the same path, or paths that differ in case only"
    if any(below.startswith(f"{path}/") for path in paths for below in paths):
        yield "one file's path is another's folder"
    if sum(max(entry.size_bytes, 0) for entry in manifest.files) > BUNDLE_MAX_BYTES:
        yield f"the files exceed {BUNDLE_MAX_BYTES} bytes"
    for entry in manifest.files:
        if not is_safe_path(entry.path):
            yield f"path {entry.path!r} is not allowed"
        if entry.size_bytes < 0 or len(entry.chunks) != chunks.count(max(entry.size_bytes, 0)):
            yield f"{entry.path!r} has {len(entry.chunks)} chunks for {entry.size_bytes} bytes"
        if not all(_DIGEST.fullmatch(digest) for digest in (entry.sha256, *entry.chunks)):
            yield f"{entry.path!r} has a malformed digest"


def _references(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield "model", manifest.model
    yield "golden", manifest.golden.path
    if isinstance(manifest.preprocess, TextInput | PromptInput):
        yield "preprocess", manifest.preprocess.tokenizer
    if isinstance(manifest.postprocess, Decoded):
        yield "postprocess", manifest.postprocess.tokenizer


def _quantities(manifest: Manifest) -> Iterator[tuple[str, float]]:
    yield "needs.ram_bytes", manifest.needs.ram_bytes
    yield "needs.disk_bytes", manifest.needs.disk_bytes
    yield "runtime.threads", manifest.runtime.threads
    yield "golden.max_abs", manifest.golden.max_abs
    yield "golden.cases", manifest.golden.cases - 1
    if isinstance(manifest.postprocess, DecodedText):
        yield "postprocess.no_repeat", manifest.postprocess.no_repeat
        yield "postprocess.no_repeat_read", manifest.postprocess.no_repeat_read
        yield "postprocess.repetition_penalty", manifest.postprocess.repetition_penalty
    if isinstance(manifest.preprocess, AudioInput):
        yield "preprocess.sampling_rate_hz", manifest.preprocess.sampling_rate_hz - 1
        yield "preprocess.min_samples", manifest.preprocess.min_samples
        yield "preprocess.max_samples", manifest.preprocess.max_samples - manifest.preprocess.min_samples
        if spectrum := manifest.preprocess.log_mel:
            yield "preprocess.log_mel.bins", spectrum.bins - 1
            yield "preprocess.log_mel.samples", spectrum.samples - manifest.preprocess.max_samples


def is_safe_path(path: str) -> bool:
    """Return whether `path` stays in the bundle's folder on every file system: relative, no `..`, no hidden part."""
    return len(path) <= PATH_MAX_CHARS and _PATH.fullmatch(path) is not None and path != MANIFEST_NAME
