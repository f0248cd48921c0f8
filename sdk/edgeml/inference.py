"""Answers of a bundle on this host, by the code that runs on a device (`edgeml_runtime`)."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from edgeml.check import data, records
from edgeml_core import decoding
from edgeml_core.errors import UsageError
from edgeml_core.processing import AudioInput, ImageInput
from edgeml_runtime import requests
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Answer, Item
from edgeml_runtime.unpack import unpacked

#: The fields of rows that say what the model should answer.
EXPECTED: Final = ("label", "boxes")
#: The fields of all kinds of requests. The model refuses those of another kind; other names say nothing to it.
_TAKEN: Final = frozenset(field.name for kind in requests.KINDS for field in msgspec.structs.fields(kind))
_IGNORED: Final = "ignored, since the model doesn't take it: {}"
#: Characters of a path; longer text is a file's content in base64.
_PATH_MAX_CHARS: Final = 1024


def run(bundle: Path, request: object) -> list[Answer]:
    """Answer one request, or each of a list, in order.

    Args:
        bundle: a `.edgeml` file.
        request: a decoded JSON value, as `POST /v1/models/NAME/predict` takes it; arrays are taken for nested lists.

    Raises:
        UsageError: `input-invalid`. RejectedError: the bundle is malformed. DeviceError: no runtime, or it failed.
    """
    with _opened(bundle) as model:
        return model.predict(model.parse(_as_json(request)))


def run_with_files(bundle: Path, request: object, note: Callable[[str], object]) -> list[Answer]:
    """Answer as `run` a request whose `image` and `audio` may be paths, relative to the current folder.

    Args:
        bundle: a `.edgeml` file.
        request: a decoded JSON value; `label` and `boxes` are ignored.
        note: receives a sentence on ignored fields.

    Raises:
        UsageError: `input-invalid`, also when there is no such file; and as for `run`.
    """
    wanted = request if isinstance(request, list) else [request]
    requests.check_count(len(wanted))
    if ignored := sorted({name for it in wanted if isinstance(it, Mapping) for name in EXPECTED if name in it}):
        note(_IGNORED.format(", ".join(ignored)))
    with _opened(bundle) as model:
        return model.predict([_item(model, _without(it, EXPECTED), Path()) for it in wanted])


def run_rows(
    bundle: Path, path: Path, note: Callable[[str], object], *, content: bytes | None = None
) -> Iterator[Answer]:
    """Answer the rows of a data file one by one, each in a run of its own.

    Args:
        bundle: a `.edgeml` file.
        path: a file as `edgeml export --evaluate` takes it; paths in it are relative to its folder.
        note: receives a sentence on the fields that the model doesn't take, such as `label`.
        content: of the file, where it is read already; `path` names it then.

    Yields:
        One answer for each row, in order.

    Raises:
        UsageError: `data-invalid`; `input-invalid`, naming the row; and as for `run`.
    """
    with _opened(bundle) as model:
        table = data.table_of(model.manifest.preprocess, model.manifest.inputs)
        found = records.read(path, table) if content is None else records.parse(path, content, table)
        if ignored := _ignored(found):
            note(_IGNORED.format(", ".join(ignored)))
        for record in found:
            try:
                row = {name: value for name, value in _object(record.content).items() if name in _TAKEN}
                answer = model.predict([_item(model, row, path.parent)])[0]
            except UsageError as error:
                raise UsageError(error.code, f"{path.name}, {record.place}: {error.message}", error.hint) from error
            yield answer


@contextmanager
def _opened(bundle: Path) -> Iterator[Model]:
    with unpacked(bundle) as opened:
        model = Model.open(opened.folder, opened.manifest)
        try:
            yield model
        finally:
            model.close()


def _without(request: object, names: Sequence[str]) -> object:
    """Leave fields out of a request that is an object."""
    if not isinstance(request, Mapping):
        return request
    return {name: value for name, value in request.items() if name not in names}


def _object(content: bytes) -> dict[str, Any]:
    try:
        return decoding.from_json(content, dict[str, Any])
    except msgspec.MsgspecError as error:
        raise UsageError("input-invalid", f"no JSON object: {error}", "write each row as an object") from error


def _ignored(found: Sequence[records.Record]) -> list[str]:
    """Name the fields of the first row that no model takes."""
    try:
        fields = _object(found[0].content) if found else {}
    except UsageError:  # the row itself is refused later
        return []
    return sorted(fields.keys() - _TAKEN)


def _item(model: Model, request: object, folder: Path) -> Item:
    """Parse one request; the files that it names are read here."""
    if not isinstance(request, Mapping):
        return model.parse([request])[0]
    match model.manifest.preprocess, request:
        case ImageInput(), {"image": str(name)}:
            request = {**request, "image": base64.b64encode(_file(name, folder)).decode()}
        case AudioInput(), {"audio": str(name)}:
            request = {**request, "audio": base64.b64encode(_file(name, folder)).decode()}
    return model.parse([request])[0]


def _file(name: str, folder: Path) -> bytes:
    """Read the file of a path, or decode a file in base64."""
    try:
        if len(name) <= _PATH_MAX_CHARS and (folder / name).is_file():
            return (folder / name).read_bytes()
        return base64.b64decode(name, validate=True)
    except OSError as error:
        raise UsageError("input-invalid", f"{name!r} can't be read: {error.strerror}", "check the file") from error
    except ValueError as error:
        shown = name if len(name) <= _PATH_MAX_CHARS else f"{name[:40]}..."
        message = f"{shown!r} is neither a file nor one in base64"
        raise UsageError(
            "input-invalid", message, "check the path: it is relative to the file that names it"
        ) from error


def _as_json(value: object) -> object:
    """Replace arrays by nested lists, at any depth."""
    if isinstance(value, Mapping):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    to_list = getattr(value, "tolist", None)
    return to_list() if callable(to_list) else value
