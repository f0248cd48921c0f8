"""Answers of a bundle on this host, by the code that runs on a device (`edgeml_runtime`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Answer
from edgeml_runtime.unpack import unpacked


def run(bundle: Path, request: object) -> list[Answer]:
    """Answer one request, or each of a list, in order.

    Args:
        bundle: a `.edgeml` file.
        request: a decoded JSON value, as `POST /v1/models/NAME/predict` takes it; arrays are taken for nested lists.

    Raises:
        UsageError: `input-invalid`. RejectedError: the bundle is malformed. DeviceError: no runtime, or it failed.
    """
    with unpacked(bundle) as opened:
        model = Model.open(opened.folder, opened.manifest)
        try:
            return model.predict(model.parse(_as_json(request)))
        finally:
            model.close()


def _as_json(value: object) -> object:
    """Replace arrays by nested lists, at any depth."""
    if isinstance(value, Mapping):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    to_list = getattr(value, "tolist", None)
    return to_list() if callable(to_list) else value
