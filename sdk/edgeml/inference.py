"""Requests answered by a bundle on this host, by the device's code (`edgeml_runtime`)."""

from __future__ import annotations

from pathlib import Path

from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Answer
from edgeml_runtime.unpack import unpacked


def run(bundle: Path, request: object) -> list[Answer]:
    """Answer one request, or each of a list, in order.

    Args:
        bundle: a `.edgeml` file.
        request: a decoded JSON value, as `POST /v1/models/NAME/predict` takes it.

    Raises:
        UsageError: `input-invalid`. RejectedError: the bundle is malformed. DeviceError: no runtime, or it failed.
    """
    with unpacked(bundle) as opened:
        model = Model.open(opened.folder, opened.manifest)
        try:
            return model.predict(model.parse(request))
        finally:
            model.close()
