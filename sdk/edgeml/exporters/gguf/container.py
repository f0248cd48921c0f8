"""The container of a GGUF file: its metadata, and where its tensors lie. The standard library alone; no weight is read.

- Each count and length is compared with the file's size, or with a limit, before anything of that size is made.
- Whether a tensor lies inside the file is left to `tensors`, which knows the types' sizes.

Source: the format's specification, ggml's docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NoReturn, TypeAlias

from edgeml_core.errors import UsageError

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
#: Entries of the metadata, and tensors; the largest known models have under 100 and 2,000.
ENTRIES_MAX: Final = 10_000
TENSORS_MAX: Final = 100_000
#: Elements of all arrays together. The largest known vocabularies have 0.3 million tokens and as many merges.
ELEMENTS_MAX: Final = 10_000_000
#: Bytes of the name of an entry or a tensor; the longest known ones have under 100.
NAME_MAX_BYTES: Final = 1024
#: Bytes before the tensors; the largest known have 20 million, of vocabularies.
HEADER_MAX_BYTES: Final = 256 << 20
#: Axes of a tensor, as ggml limits them.
AXES_MAX: Final = 4
#: Bytes between whose multiples tensors begin, unless the metadata has another number.
ALIGNMENT: Final = 32
ALIGNMENT_MAX: Final = 1 << 20
#: By number of a metadata type: its form in `struct`.
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9

Scalar: TypeAlias = int | float | bool | str
Value: TypeAlias = Scalar | list[Scalar]


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor's place in the file.

    Args:
        shape: the slowest axis first, as in torch; the file has the reverse.
        kind: ggml's number of its type.
        begin: bytes from the start of the file.
    """

    shape: tuple[int, ...]
    kind: int
    begin: int


@dataclass(frozen=True, kw_only=True)
class Container:
    """A GGUF file without its weights.

    Args:
        size_bytes: of the whole file.
    """

    path: Path
    size_bytes: int
    metadata: Mapping[str, Value]
    tensors: Mapping[str, Tensor]


def read(path: Path) -> Container:
    """Read the metadata and the places of the tensors.

    Raises:
        UsageError: `model-unreadable`, when the file is cut short, damaged or of another format.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return parse(path, data)
    except (OSError, ValueError) as error:
        raise unreadable(path, f"can't be read: {error}") from error


def parse(path: Path, data: bytes | mmap.mmap) -> Container:
    """Read as `read` does.

    Args:
        path: for the errors.
        data: of the whole file.
    """
    return _Reader(path, data).container()


def unreadable(path: Path, why: str) -> UsageError:
    """Build the error for a damaged file."""
    hint = "download it again; if that fails, name the folder of the model that it was made from"
    return UsageError("model-unreadable", f"{path} {why}", hint)


def unsupported(path: Path, why: str) -> UsageError:
    """Build the error for a file that edgeml can't show to be read right."""
    return UsageError("model-unsupported", f"{path} {why}", "name the folder of the model that it was made from")


class _Reader:
    """One reading of a file, from its beginning on."""

    def __init__(self, path: Path, data: bytes | mmap.mmap) -> None:
        self._path, self._data, self._at = path, data, 0
        self._elements = 0

    def container(self) -> Container:
        self._check_format()
        count = self._limited(self._number("Q"), TENSORS_MAX, "tensors")
        entries = self._limited(self._number("Q"), ENTRIES_MAX, "entries of metadata")
        metadata: dict[str, Value] = {}
        for _ in range(entries):
            key = self._name()
            if key in metadata:
                self._fail(f"has the metadata {key!r} twice")
            metadata[key] = self._value(key, int(self._number("I")))
        tensors: dict[str, Tensor] = {}
        for _ in range(count):
            name = self._name()
            if name in tensors:
                self._fail(f"has the tensor {name!r} twice")
            tensors[name] = self._tensor()
        start = self._start(metadata.get("general.alignment", ALIGNMENT))
        placed = {name: replace(it, begin=start + it.begin) for name, it in tensors.items()}
        return Container(path=self._path, size_bytes=len(self._data), metadata=metadata, tensors=placed)

    def _check_format(self) -> None:
        if self._taken(len(MAGIC)) != MAGIC:
            self._fail("is no GGUF file")
        version = int(self._number("I"))
        if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
            self._fail("is written for big-endian computers")
        if version not in VERSIONS:
            self._fail(f"has version {version} of the format; edgeml reads {' and '.join(map(str, VERSIONS))}")

    def _start(self, alignment: Value) -> int:
        """Find where the tensors begin, in bytes from the start of the file."""
        if type(alignment) is not int or not 0 < alignment <= ALIGNMENT_MAX or alignment & (alignment - 1):
            self._fail(f"has general.alignment = {alignment}, which is no power of two up to {ALIGNMENT_MAX}")
        return -(-self._at // alignment) * alignment

    def _tensor(self) -> Tensor:
        axes = self._limited(self._number("I"), AXES_MAX, "axes of a tensor")
        shape = tuple(int(self._number("Q")) for _ in range(axes))
        return Tensor(shape=shape[::-1], kind=int(self._number("I")), begin=int(self._number("Q")))

    def _value(self, key: str, kind: int) -> Value:
        if kind != _ARRAY:
            return self._scalar(key, kind)
        each, count = int(self._number("I")), int(self._number("Q"))
        self._elements += count
        if self._elements > ELEMENTS_MAX:
            self._fail(f"has more than {ELEMENTS_MAX} elements in its metadata, at {key!r}")
        if (form := _SCALARS.get(each)) is not None:
            return list(struct.unpack(f"<{count}{form}", self._taken(struct.calcsize(f"<{count}{form}"))))
        return [self._scalar(key, each) for _ in range(count)]

    def _scalar(self, key: str, kind: int) -> Scalar:
        if kind == _TEXT:
            return self._text(f"the metadata {key!r}")
        form = _SCALARS.get(kind)
        if form is None:
            self._fail(f"has the metadata {key!r} of an unknown type, {kind}")
        return self._number(form)

    def _name(self) -> str:
        return self._text("a name", most=NAME_MAX_BYTES)

    def _text(self, what: str, most: int | None = None) -> str:
        length = int(self._number("Q"))
        if most is not None:
            self._limited(length, most, f"bytes of {what}")
        try:
            return self._taken(length).decode()
        except UnicodeDecodeError:
            self._fail(f"has {what} that is no UTF-8")

    def _number(self, form: str) -> Scalar:
        found: Scalar = struct.unpack(f"<{form}", self._taken(struct.calcsize(f"<{form}")))[0]
        return found

    def _taken(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            self._fail(f"is cut short: it has {len(self._data)} bytes, and its header goes on")
        self._at += count
        if self._at > HEADER_MAX_BYTES:
            self._fail(f"has more than {HEADER_MAX_BYTES} bytes before its tensors")
        return self._data[self._at - count : self._at]

    def _limited(self, count: Scalar, most: int, what: str) -> int:
        if int(count) > most:
            self._fail(f"has {count} {what}; {most} is the limit")
        return int(count)

    def _fail(self, why: str) -> NoReturn:
        raise unreadable(self._path, why)
