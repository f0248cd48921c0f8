"""Requests as they come in JSON, and their bounds.

One object or a list of them, of the kind that the manifest's preprocessing takes:
`{"text": "..."}`, `{"image": "<base64 of the file>"}` or `{"inputs": {"name": [[...]]}}`.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, TypeVar

import msgspec

from edgeml_core.errors import UsageError
from edgeml_core.manifest import ImageInput, Manifest, TextInput
from edgeml_runtime import tensors
from edgeml_runtime.tasks import Image, Item, Tensors, Text

#: Items in one request: at 10 ms each, the last answer of a full one comes within 3 s.
ITEMS_MAX: Final = 256
#: Characters of one text: a tokenizer reads this many in a few ms, and no model here reads on past a few thousand.
TEXT_MAX_CHARS: Final = 100_000
IMAGE_MAX_BYTES: Final = 32 * 1024 * 1024


class _ImageRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    image: str


class _TextRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str


class _TensorsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    inputs: dict[str, object]


_Request = TypeVar("_Request", _TextRequest, _ImageRequest, _TensorsRequest)


def parse(request: object, manifest: Manifest) -> list[Item]:
    """The items in a decoded JSON request.

    Raises:
        UsageError: `input-invalid`, when it is not of the kind that the model takes, or more than `ITEMS_MAX`.
    """
    values = request if isinstance(request, list) else [request]
    require_count(len(values))
    return [_item(value, manifest) for value in values]


def require_count(count: int) -> None:
    """Check the number of items in one request.

    Raises:
        UsageError: `input-invalid`, when there is none or more than `ITEMS_MAX`.
    """
    if not 1 <= count <= ITEMS_MAX:
        raise UsageError("input-invalid", f"the request has {count} items", f"send 1 to {ITEMS_MAX} at a time")


def require_bounds(item: Item) -> None:
    """Check the size of one item.

    Raises:
        UsageError: `input-invalid`, when a text or an image file is too long.
    """
    if isinstance(item, Text) and len(item.text) > TEXT_MAX_CHARS:
        raise UsageError("input-invalid", f"the text has {len(item.text)} characters", f"send {TEXT_MAX_CHARS} at most")
    if isinstance(item, Image) and len(item.data) > IMAGE_MAX_BYTES:
        raise UsageError("input-invalid", f"the image has {len(item.data)} bytes", f"send {IMAGE_MAX_BYTES} at most")


def _item(value: object, manifest: Manifest) -> Item:
    match manifest.preprocess:
        case TextInput():
            return Text(_read(value, _TextRequest, '{"text": "..."}').text)
        case ImageInput():
            return Image(_decoded(_read(value, _ImageRequest, '{"image": "<base64 of the file>"}').image))
        case _:
            given = _read(value, _TensorsRequest, '{"inputs": {"name": nested list}}').inputs
            specs = {spec.name: spec for spec in manifest.inputs}
            if unknown := sorted(given.keys() - specs.keys()):
                names = ", ".join(specs)
                raise UsageError("input-invalid", f"there is no input {unknown[0]!r}", f"the model takes {names}")
            return Tensors({name: tensors.from_nested(specs[name], nested) for name, nested in given.items()})


def _read(value: object, kind: type[_Request], example: str) -> _Request:
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise UsageError("input-invalid", f"the request can't be read: {error}", f"send {example}") from error


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError("input-invalid", f"the image is not base64: {error}", "encode the file's bytes") from error
