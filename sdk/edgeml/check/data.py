"""Data files for `--calibrate` and `--evaluate`: JSON lines, a JSON array or CSV (`records`), some with a `label`.

A record is `{"text": ...}`, `{"question": ..., "context": ...}`, `{"image": path}`, `{"audio": path}` or
`{"inputs": {...}}`, as the model takes it. A language model takes whole texts without a label. A picture for a
detector has `"boxes": [{"label": ..., "box": [xmin, ymin, xmax, ymax]}]` instead of a label.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np

from edgeml.check import records
from edgeml.check.records import Record
from edgeml.exporters.source import Signature
from edgeml_core import decoding
from edgeml_core.errors import UsageError
from edgeml_core.manifest import TensorSpec
from edgeml_core.processing import (
    AudioInput,
    Boxes,
    Classes,
    ImageInput,
    MaskFill,
    Postprocess,
    Preprocess,
    PromptInput,
    QuestionInput,
    TensorInput,
    TensorOutput,
    TextInput,
)
from edgeml_runtime import tensors
from edgeml_runtime.encode import audio
from edgeml_runtime.tasks import Audio, Image, Item, Question, ScoredText, Tensors, Text

#: Rows of one file; their answers take about 2 GB of memory.
ROWS_MAX: Final = 1_000_000
#: Draws the same rows in each run.
_SEED: Final = 0
#: Problems in one message.
PROBLEMS_SHOWN_MAX: Final = 10
#: Places that have the same problem, in one message.
PLACES_SHOWN_MAX: Final = 3


class LabelledBox(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One object in a picture: left, top, right and bottom in its pixels."""

    label: str
    box: tuple[float, float, float, float]


Label: TypeAlias = str | int | list[str] | tuple[LabelledBox, ...]


class _Line(msgspec.Struct, frozen=True):
    text: str | None = None
    text_pair: str | None = None
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
    """A data file: its rows and the digest of their content, images included; `given` counts all that the file has."""

    rows: tuple[Row, ...] = ()
    sha256: str = ""
    given: int = 0

    @property
    def items(self) -> list[Item]:
        """The rows' items."""
        return [row.item for row in self.rows]

    @property
    def note(self) -> str:
        """The card's words where rows were drawn; empty where all were read."""
        if len(self.rows) == self.given:
            return ""
        return f"accuracy of {len(self.rows):,} rows of {self.given:,}, drawn at random; --evaluate-rows takes more"


def read(path: Path | None, signature: Signature, *, most: int | None = None) -> Rows:
    """Read the rows of a data file; none where no file is given.

    Args:
        path: of the file.
        signature: of the model that takes the rows.
        most: of more rows, this many are drawn at random, the same each time; None reads all.

    Raises:
        UsageError: `data-invalid`, naming the first lines that the model can't take.
    """
    if path is None:
        return Rows()
    found = records.read(path, table_of(signature.preprocess, signature.inputs))
    if not found:
        raise UsageError("data-invalid", f"{path} has 0 rows", "write at least one row")
    if len(found) > ROWS_MAX:
        hint = f"take a random sample, such as with `shuf -n {ROWS_MAX}`"
        raise UsageError("data-invalid", f"{path} has {len(found):,} rows; {ROWS_MAX:,} at most are read", hint)
    given = len(found)
    if most is not None and given > most:
        drawn = np.random.default_rng(_SEED).choice(given, most, replace=False)
        found = [found[at] for at in drawn]
    rows, whole = [], hashlib.sha256()
    problems: dict[str, list[str]] = {}
    for record in found:
        try:
            row = _row(record, path.parent, signature)
        except (UsageError, msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
            problems.setdefault(str(error), []).append(record.place)
            continue
        whole.update(record.content + b"\n" + _file(row.item))
        rows.append(row)
    if problems:
        raise _invalid(path, problems, len(found))
    return Rows(rows=tuple(rows), sha256=whole.hexdigest(), given=given)


def table_of(preprocess: Preprocess, inputs: Sequence[TensorSpec]) -> str | None:
    """Return the input that takes the columns of a CSV file: the only one, of shape [rows, columns]."""
    if isinstance(preprocess, TensorInput) and len(inputs) == 1 and len(inputs[0].shape) == 2:
        return inputs[0].name
    return None


def _file(item: Item) -> bytes:
    """The content of the file that a line names; empty where it names none."""
    match item:
        case Image(data=data):
            return data
        case Audio(samples=samples):
            return samples.tobytes()
        case _:
            return b""


def _row(record: Record, folder: Path, signature: Signature) -> Row:
    found = decoding.from_json(record.content, _Line)
    needed = _NEEDED.get(type(signature.preprocess), ())
    values = [getattr(found, name) for name in needed]
    if None in values:
        raise UsageError("data-invalid", f"no {' and no '.join(needed)}")
    label = _label(found, signature.postprocess, is_text=record.is_text)
    return Row(item=_item(values, found, folder, signature), label=label)


def read_labels(path: Path, postprocess: Postprocess) -> Iterator[Label | None]:
    """Read the labels of a file alone, without those of malformed rows.

    Raises:
        UsageError: `data-invalid`, when the file is of another kind.
    """
    for record in records.read(path):
        with contextlib.suppress(msgspec.MsgspecError):
            found = decoding.from_json(record.content, _Line)
            yield _label(found, postprocess, is_text=record.is_text)


def _label(found: _Line, postprocess: Postprocess, *, is_text: bool) -> Label | None:
    """Take a record's label. In CSV digits are an index where the model has no such name."""
    text = found.label
    if found.boxes is not None or not is_text or not isinstance(text, str):
        return text if found.boxes is None else found.boxes
    names = getattr(postprocess, "labels", ())
    takes_index = isinstance(postprocess, Classes | TensorOutput)
    return int(text) if takes_index and text not in names and text.isascii() and text.isdigit() else text


def _item(values: list[str], found: _Line, folder: Path, signature: Signature) -> Item:
    match signature.preprocess:
        case QuestionInput():
            return Question(*values)
        case TextInput():
            if isinstance(signature.postprocess, MaskFill):
                _check_masked(values[0], signature.postprocess.mask)
            return Text(values[0], found.text_pair)
        case PromptInput():
            return ScoredText(*values)
        case ImageInput():
            # A detector's precision is measured over all thresholds, so it returns its least certain boxes, too.
            threshold = 0.0 if isinstance(signature.postprocess, Boxes) else None
            return Image((folder / values[0]).read_bytes(), threshold)
        case AudioInput(sampling_rate_hz=rate_hz):
            return audio.read((folder / values[0]).read_bytes(), rate_hz)
        case _:
            return Tensors(dict(_tensors(found.inputs or {}, signature)))


def _check_masked(text: str, mask: str) -> None:
    if (count := text.count(mask)) != 1:
        raise UsageError("data-invalid", f"the text has {count} masks {mask}; 1 is needed")


def _tensors(inputs: dict[str, Any], signature: Signature) -> Iterator[tuple[str, tensors.Array]]:
    specs = {spec.name: spec for spec in signature.inputs}
    if inputs.keys() != specs.keys():
        raise UsageError("data-invalid", f"the row has the inputs {sorted(inputs)}, the model takes {sorted(specs)}")
    null = getattr(signature.preprocess, "missing", False) is True
    for name, nested in inputs.items():
        yield name, tensors.from_nested(specs[name], nested, missing=null)


def _invalid(path: Path, problems: Mapping[str, Sequence[str]], rows: int) -> UsageError:
    """Name each problem once, with its first places."""
    count = sum(map(len, problems.values()))
    shown = "; ".join(
        f"{_places(places)}: {problem}" for problem, places in list(problems.items())[:PROBLEMS_SHOWN_MAX]
    )
    hint = 'write every row as an object such as {"text": "...", "label": "..."}'
    return UsageError("data-invalid", f"{path} has {count:,} problem(s) in {rows:,} row(s): {shown}", hint)


def _places(places: Sequence[str]) -> str:
    more = len(places) - PLACES_SHOWN_MAX
    return ", ".join(places[:PLACES_SHOWN_MAX]) + (f" and {more:,} more" if more > 0 else "")
