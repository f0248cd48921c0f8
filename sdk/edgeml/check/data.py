"""Data files: JSON lines, some with a `label`.

A line is `{"text": ...}`, `{"question": ..., "context": ...}`, `{"image": path}`, `{"audio": path}` or
`{"inputs": {...}}`, as the model takes it. A language model takes whole texts without a label. A picture for a
detector has `"boxes": [{"label": ..., "box": [xmin, ymin, xmax, ymax]}]` instead of a label.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from edgeml.exporters.source import Signature
from edgeml_core.errors import UsageError
from edgeml_core.processing import AudioInput, Boxes, ImageInput, PromptInput, QuestionInput, TextInput
from edgeml_runtime import tensors
from edgeml_runtime.encode.audio import read_wav
from edgeml_runtime.tasks import Audio, Image, Item, Question, ScoredText, Tensors, Text

#: Rows; more take hours and change no decision.
ROWS_MAX: Final = 100_000
#: Problems in one message.
PROBLEMS_SHOWN_MAX: Final = 10


class LabelledBox(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One object in a picture: left, top, right and bottom in its pixels."""

    label: str
    box: tuple[float, float, float, float]


Label: TypeAlias = str | int | list[str] | tuple[LabelledBox, ...]


class _Line(msgspec.Struct, frozen=True):
    text: str | None = None
    question: str | None = None
    context: str | None = None
    image: str | None = None
    audio: str | None = None
    inputs: dict[str, Any] | None = None
    label: str | int | list[str] | None = None
    boxes: tuple[LabelledBox, ...] | None = None


#: The fields that a line must have, by the model's preprocessing.
_NEEDED: Final[dict[type, tuple[str, ...]]] = {
    QuestionInput: ("question", "context"),
    TextInput: ("text",),
    PromptInput: ("text",),
    ImageInput: ("image",),
    AudioInput: ("audio",),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One item, and the label that the model should give it."""

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
    """Read the rows of a data file; none where no file is given.

    Raises:
        UsageError: `data-invalid`, naming the first lines that the model can't take.
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
        whole.update(line + b"\n" + _file(row.item))
        rows.append(row)
    if problems:
        raise _invalid(path, problems)
    return Rows(rows=tuple(rows), sha256=whole.hexdigest())


def _file(item: Item) -> bytes:
    """The content of the file that a line names; empty where it names none."""
    match item:
        case Image(data=data):
            return data
        case Audio(samples=samples):
            return samples.tobytes()
        case _:
            return b""


def _row(line: bytes, folder: Path, signature: Signature) -> Row:
    found = msgspec.json.decode(line, type=_Line)
    needed = _NEEDED.get(type(signature.preprocess), ())
    values = [getattr(found, name) for name in needed]
    if None in values:
        raise UsageError("data-invalid", f"the line has no {' and no '.join(needed)}")
    label = found.label if found.boxes is None else found.boxes
    return Row(item=_item(values, found, folder, signature), label=label)


def _item(values: list[str], found: _Line, folder: Path, signature: Signature) -> Item:
    match signature.preprocess:
        case QuestionInput():
            return Question(*values)
        case TextInput():
            return Text(*values)
        case PromptInput():
            return ScoredText(*values)
        case ImageInput():
            # A detector's precision is measured over all thresholds, so it returns its least certain boxes, too.
            threshold = 0.0 if isinstance(signature.postprocess, Boxes) else None
            return Image((folder / values[0]).read_bytes(), threshold)
        case AudioInput():
            return read_wav((folder / values[0]).read_bytes())
        case _:
            return Tensors(dict(_tensors(found.inputs or {}, signature)))


def _tensors(inputs: dict[str, Any], signature: Signature) -> Iterator[tuple[str, tensors.Array]]:
    specs = {spec.name: spec for spec in signature.inputs}
    if inputs.keys() != specs.keys():
        raise UsageError("data-invalid", f"the line has the inputs {sorted(inputs)}, the model takes {sorted(specs)}")
    null = getattr(signature.preprocess, "missing", False) is True
    for name, nested in inputs.items():
        yield name, tensors.from_nested(specs[name], nested, missing=null)


def _invalid(path: Path, problems: list[str]) -> UsageError:
    shown = "; ".join(problems[:PROBLEMS_SHOWN_MAX])
    hint = 'write every line as an object such as {"text": "...", "label": "..."}'
    return UsageError("data-invalid", f"{path} has {len(problems)} problem(s): {shown}", hint)
