"""Data files: JSON lines of `{"text": ...}`, `{"image": path}` or `{"inputs": {...}}`, some with a `label`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from edgeml.export.source import Signature
from edgeml_core.errors import UsageError
from edgeml_core.manifest import ImageInput, TextInput
from edgeml_runtime import tensors
from edgeml_runtime.tasks import Image, Item, Tensors, Text

ROWS_MAX: Final = 100_000
PROBLEMS_SHOWN_MAX: Final = 10

Label: TypeAlias = str | int | list[str]


class _Line(msgspec.Struct, frozen=True):
    text: str | None = None
    image: str | None = None
    inputs: dict[str, Any] | None = None
    label: Label | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One item, and what the model should say to it."""

    item: Item
    label: Label | None = None


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A data file: its rows and the digest of its content, images included."""

    rows: tuple[Row, ...] = ()
    sha256: str = ""

    @property
    def items(self) -> list[Item]:
        """The rows' items."""
        return [row.item for row in self.rows]


def read(path: Path | None, signature: Signature) -> Rows:
    """The rows in a data file; none where there is no file.

    Raises:
        UsageError: `data-invalid`, naming the first lines that don't fit the model.
    """
    if path is None:
        return Rows()
    try:
        lines = [line for line in path.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        hint = "name a file of JSON lines"
        raise UsageError("data-invalid", f"{path} can't be read: {error.strerror}", hint) from error
    if not 1 <= len(lines) <= ROWS_MAX:
        raise _invalid(path, [f"{len(lines)} rows; 1 to {ROWS_MAX} are allowed"])
    rows, problems, whole = [], [], hashlib.sha256()
    for number, line in enumerate(lines, 1):
        try:
            row = _row(line, path.parent, signature)
        except (UsageError, msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
            problems.append(f"line {number}: {error}")
            continue
        whole.update(line + b"\n" + (row.item.data if isinstance(row.item, Image) else b""))
        rows.append(row)
    if problems:
        raise _invalid(path, problems)
    return Rows(rows=tuple(rows), sha256=whole.hexdigest())


def _row(line: bytes, folder: Path, signature: Signature) -> Row:
    found = msgspec.json.decode(line, type=_Line)
    match signature.preprocess:
        case TextInput() if found.text is not None:
            return Row(item=Text(found.text), label=found.label)
        case ImageInput() if found.image is not None:
            return Row(item=Image((folder / found.image).read_bytes()), label=found.label)
        case TextInput():
            raise UsageError("data-invalid", "it has no text")
        case ImageInput():
            raise UsageError("data-invalid", "it has no image")
        case _:
            return Row(item=Tensors(dict(_tensors(found.inputs or {}, signature))), label=found.label)


def _tensors(inputs: dict[str, Any], signature: Signature) -> Iterator[tuple[str, tensors.Array]]:
    specs = {spec.name: spec for spec in signature.inputs}
    if inputs.keys() != specs.keys():
        raise UsageError("data-invalid", f"its inputs are {sorted(inputs)}, the model's {sorted(specs)}")
    for name, nested in inputs.items():
        yield name, tensors.from_nested(specs[name], nested)


def _invalid(path: Path, problems: list[str]) -> UsageError:
    shown = "; ".join(problems[:PROBLEMS_SHOWN_MAX])
    hint = 'every line is an object such as {"text": "...", "label": "..."}'
    return UsageError("data-invalid", f"{path} has {len(problems)} problem(s): {shown}", hint)
