"""The records of a data file in UTF-8: JSON lines, a JSON array, or CSV whose first line names the fields.

Each becomes one JSON object; `edgeml.check.data` reads its fields.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from edgeml_core import decoding
from edgeml_core.errors import UsageError

#: The fields of a record, one of which a CSV file's first line has to name.
FIELDS: Final = ("text", "text_pair", "question", "context", "image", "audio", "inputs", "label", "boxes")
#: Fields of CSV that hold JSON: nested lists, or the labels of words.
_NESTED: Final = ("inputs", "boxes")
#: Characters between the cells of CSV; the first line has most of its own.
_DELIMITERS: Final = ",;\t"
#: Characters of one cell of CSV; no model reads longer texts.
CELL_MAX_CHARS: Final = 1_000_000
#: Bytes at the beginning of files that aren't UTF-8; UTF-32 begins as UTF-16 does, so it is first.
_MARKS: Final = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
#: Bytes at the beginning of files of other kinds, and the way from them.
_OTHERS: Final = {
    b"PAR1": (
        "Parquet",
        "write it as JSON lines: pandas.read_parquet(FILE).to_json(OUT, orient='records', lines=True)",
    ),
    b"ARROW1": ("Arrow", "write it as JSON lines: datasets.Dataset.from_file(FILE).to_json(OUT)"),
    b"PK\x03\x04": ("a zip archive or a spreadsheet", "unpack it, or save the sheet as CSV in UTF-8"),
    b"\x1f\x8b": ("compressed by gzip", "decompress it with gunzip"),
}
#: Files of a folder that `datasets` saved.
_DATASETS: Final = ("dataset_info.json", "dataset_dict.json", "state.json")


class Record(NamedTuple):
    """One record: its place in the file for messages, its JSON, and whether its cells were text, as in CSV."""

    place: str
    content: bytes
    is_text: bool = False


def read(path: Path, table: str | None = None) -> list[Record]:
    """Read the records of a file.

    Args:
        path: of the file.
        table: the input that takes the numbers of all columns of CSV but `label`, in their order; None for models
            that take fields by name.

    Raises:
        UsageError: `data-invalid`, when the file can't be read, isn't UTF-8, or is of another kind.
    """
    return parse(path, _content(path), table)


def parse(path: Path, data: bytes, table: str | None = None) -> list[Record]:
    """Parse the records in a file's content, as `read` does; `path` only names it in messages."""
    text = _text(path, data)
    begun = text.lstrip()[:1]
    if begun == "[":
        return _array(path, text)
    if begun in {"{", ""}:
        lines = enumerate(text.encode().splitlines(), 1)
        return [Record(f"line {number}", line) for number, line in lines if line.strip()]
    return list(_csv(path, text, table))


def _content(path: Path) -> bytes:
    if path.is_dir():
        is_saved = any((path / name).is_file() for name in _DATASETS)
        what = "a folder that `datasets` saved" if is_saved else "a folder"
        hint = "write it as JSON lines: datasets.load_from_disk(FOLDER).to_json(OUT), once for each split"
        raise UsageError("data-invalid", f"{path} is {what}, not a file", hint if is_saved else "name a file of rows")
    try:
        return path.read_bytes()
    except OSError as error:
        hint = "name a file of JSON lines or CSV"
        raise UsageError("data-invalid", f"{path} can't be read: {error.strerror}", hint) from error


def _text(path: Path, data: bytes) -> str:
    """Decode the file's characters, without a byte order mark."""
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            raise _not_utf8(path, encoding)
    for mark, (kind, hint) in _OTHERS.items():
        if data.startswith(mark):
            raise UsageError("data-invalid", f"{path} is {kind}: edgeml reads JSON lines and CSV", hint)
    if b"\0" in data[:4]:  # UTF-16 without its mark: every second byte of plain letters is zero
        raise _not_utf8(path, "UTF-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        hint = "save it as UTF-8, such as with `iconv -f WINDOWS-1252 -t UTF-8`"
        raise UsageError("data-invalid", f"{path} is not UTF-8: byte {error.start} fits no character", hint) from error


def _not_utf8(path: Path, encoding: str) -> UsageError:
    hint = f"save it as UTF-8, such as with `iconv -f {encoding} -t UTF-8`"
    return UsageError("data-invalid", f"{path} is {encoding}, not UTF-8", hint)


def _array(path: Path, text: str) -> list[Record]:
    try:
        values = decoding.from_json(text, list[msgspec.Raw])
    except msgspec.MsgspecError as error:
        hint = "close the array with ], or write one object a line"
        raise UsageError("data-invalid", f"{path} begins as a JSON array, but isn't one: {error}", hint) from error
    return [Record(f"row {number}", bytes(value)) for number, value in enumerate(values, 1)]


def _csv(path: Path, text: str, table: str | None) -> Iterator[Record]:
    first = text.lstrip().split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(_DELIMITERS, key=first.count), strict=True)
    before = csv.field_size_limit(CELL_MAX_CHARS)
    try:
        rows = ((reader.line_num, row) for row in reader if row)
        _, header = next(rows)
        names = [name.strip() for name in header]
        _check_header(path, names, table)
        for line, row in rows:
            yield Record(f"line {line}", msgspec.json.encode(_fields(names, row, table)), is_text=True)
    except csv.Error as error:
        hint = 'put a cell with a comma or a line break in "quotes", and double the quotes inside'
        raise UsageError("data-invalid", f"{path}, line {reader.line_num}: {error}", hint) from error
    finally:
        csv.field_size_limit(before)


def _check_header(path: Path, names: Sequence[str], table: str | None) -> None:
    """Check that the first line names fields."""
    is_data = any(_number(name) is not None for name in names) if table else not set(names) & set(FIELDS)
    if is_data:
        known = "the columns" if table else f"one of {', '.join(FIELDS)}"
        message = f"{path} is neither JSON nor CSV with a header: its first line doesn't name {known}"
        hint = "begin it with a line such as `x1,x2,label`" if table else "begin it with a line such as `text,label`"
        raise UsageError("data-invalid", message, hint)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        message = f"{path} names the column {repeated[0]!r} twice"
        raise UsageError("data-invalid", message, "give each column a name of its own")


def _fields(names: Sequence[str], row: Sequence[str], table: str | None) -> dict[str, Any]:
    """Make an object of one line of CSV; an empty cell is a missing field."""
    if len(row) != len(names):
        raise csv.Error(f"{len(row)} cells, where the first line has {len(names)}")
    cells = dict(zip(names, row, strict=True))
    if table is None:
        return {name: _cell(name, cell) for name, cell in cells.items() if cell or name in {"text", "context"}}
    label = cells.pop("label", "")
    found: dict[str, Any] = {"inputs": {table: [[_required(name, cell) for name, cell in cells.items()]]}}
    return found | ({"label": label} if label else {})


def _cell(name: str, cell: str) -> Any:  # noqa: ANN401 - any JSON
    if name not in _NESTED and not (name == "label" and cell.startswith("[")):
        return cell
    try:
        return msgspec.json.decode(cell)
    except msgspec.MsgspecError as error:
        raise csv.Error(f"column {name!r} is no JSON: {error}") from error


def _required(name: str, cell: str) -> float:
    number = _number(cell)
    if number is None or not math.isfinite(number):
        raise csv.Error(f"column {name!r} has no finite number")
    return number


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
