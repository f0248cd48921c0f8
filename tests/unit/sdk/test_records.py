"""Data files as people have them: JSON lines, arrays, CSV of several kinds, marks, other encodings, other kinds."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from edgeml.check import records
from edgeml_core.errors import UsageError

ROWS = [
    {"text": "a cow, in a field", "label": "animal"},
    {"text": 'the "pump"\nstopped', "label": "machine"},
    {"text": "Kühe grasen 🐄", "label": "animal"},
]


def objects(path: Path, table: str | None = None) -> list[dict[str, object]]:
    return [json.loads(record.content) for record in records.read(path, table)]


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "rows"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("indent", [None, 2])
def test_read_lines_and_arrays_give_the_same_objects(tmp_path: Path, mark: bytes, indent: int | None):
    """With a byte order mark or without, and however an array is written."""
    lines = "".join(f"{json.dumps(row)}\r\n" for row in ROWS).encode()
    assert objects(written(tmp_path, mark + lines)) == ROWS
    assert objects(written(tmp_path, mark + json.dumps(ROWS, indent=indent).encode())) == ROWS


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("dialect", ["excel", "excel-tab", "unix"])
def test_read_csv_gives_the_objects_that_were_written(tmp_path: Path, mark: str, dialect: str):
    """By Python's own writer: commas, quotes and line breaks within cells."""
    with (tmp_path / "rows").open("w", newline="") as file:
        file.write(mark)
        writer = csv.DictWriter(file, ["text", "label"], dialect=dialect)
        writer.writeheader()
        writer.writerows(ROWS)
    assert objects(tmp_path / "rows") == ROWS
    assert all(record.is_text for record in records.read(tmp_path / "rows"))


def test_read_csv_takes_semicolons_lists_and_empty_cells(tmp_path: Path):
    """An empty label is none; labels of words are a list."""
    path = written(tmp_path, 'text;label\nopen Berlin;"[""O"", ""B-LOC""]"\nnothing;\n')
    assert objects(path) == [{"text": "open Berlin", "label": ["O", "B-LOC"]}, {"text": "nothing"}]


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (
            "good,1\nbad,0\n",
            "neither JSON nor CSV with a header: its first line doesn't name one of text",
            "text,label",
        ),
        ("plain sentences\nin a file\n", "neither JSON nor CSV with a header", "text,label"),
        ("text,label\ngood\n", "line 2: 1 cells, where the first line has 2", "quotes"),
        ('text,label\n"good,1\n', "line 2: unexpected end of data", "quotes"),
        ("text,text\na,b\n", "the column 'text' twice", "name of its own"),
        ('[{"text": "a"}', "begins as a JSON array, but isn't one", "close the array"),
        ('{"text": "a"}\n'.encode("utf-16"), "is UTF-16, not UTF-8", "iconv -f UTF-16"),
        ('{"text": "a"}\n'.encode("utf-16-le"), "is UTF-16, not UTF-8", "iconv -f UTF-16"),
        ("text\na\n".encode("utf-32"), "is UTF-32, not UTF-8", "iconv -f UTF-32"),
        ('{"text": "Kühe"}\n'.encode("latin-1"), "is not UTF-8: byte 11 fits no character", "iconv"),
        (gzip.compress(b"{}", mtime=0), "compressed by gzip", "gunzip"),
        (b"PAR1....", "is Parquet", "read_parquet"),
        (b"PK\x03\x04...", "a zip archive or a spreadsheet", "CSV"),
    ],
)
def test_read_other_files_are_refused_with_the_way(tmp_path: Path, content: str | bytes, message: str, hint: str):
    """One sentence for any number of lines."""
    with pytest.raises(UsageError) as caught:
        records.read(written(tmp_path, content))
    assert caught.value.code == "data-invalid"
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_read_table_without_a_header_is_refused(tmp_path: Path):
    """Numbers in the first line name no columns."""
    with pytest.raises(UsageError, match="its first line doesn't name the columns"):
        records.read(written(tmp_path, "1,2,3\n4,5,6\n"), "x")
    with pytest.raises(UsageError, match="line 2: column 'b' has no finite number"):
        records.read(written(tmp_path, "a,b\n1,nan\n"), "x")


def test_read_folder_names_the_way(tmp_path: Path):
    """A folder of `datasets` is recognized."""
    with pytest.raises(UsageError, match="is a folder, not a file"):
        records.read(tmp_path)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(UsageError, match="a folder that `datasets` saved") as caught:
        records.read(tmp_path)
    assert "load_from_disk" in caught.value.hint
