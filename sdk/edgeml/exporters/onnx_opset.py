"""ONNX models of an older opset: converted to the oldest one that can be quantized, and shown to answer as before.

The converter belongs to ONNX. Its adapters are not trusted: the converted model must answer like the given file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import shape_inference, version_converter

from edgeml_core.errors import UsageError
from edgeml_runtime.engines import Session
from edgeml_runtime.engines.ort import OrtSession
from edgeml_runtime.tensors import Array

#: The first opset with per-channel QDQ (ONNX: DequantizeLinear's axis).
OPSET_MIN: Final = 13
#: The oldest opset that is converted. Older files use operators that onnx's converter has no adapters for.
CONVERTED_MIN: Final = 11
#: Fraction of an output's largest value by which the converted model may differ: float rounding in another order.
ERROR_MAX: Final = 1e-4
_HINT: Final = f"export it again with opset {OPSET_MIN} or later"


def version(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators; 0 where the model imports none."""
    return next((it.version for it in model.opset_import if it.domain in ("", "ai.onnx")), 0)


def upgrade(path: Path, given: Session, inputs: Sequence[Mapping[str, Array]], converted: Path) -> None:
    """Write the model of an older opset as one of `OPSET_MIN`.

    Args:
        path: the given file, of an opset from `CONVERTED_MIN` on.
        given: runs the given file.
        inputs: arrays by tensor name; the given file answers them.
        converted: the file to write.

    Raises:
        UsageError: `model-unsupported`, when the model can't be converted, or answers any input differently after it.
    """
    if not inputs:
        raise _unsupported(f"has an opset below {OPSET_MIN}, and answers no made-up input to check its conversion on")
    try:
        model = shape_inference.infer_shapes(version_converter.convert_version(onnx.load(path), OPSET_MIN))
        onnx.save_model(model, converted)
        session = OrtSession(converted, {}, threads=1)
    except Exception as error:  # onnx, protobuf and onnxruntime share no base
        raise _unsupported(f"can't be converted to opset {OPSET_MIN}: {error}") from error
    try:
        for feed in inputs:
            _check_same(session.run(feed), given.run(feed))
    finally:
        session.close()


def _check_same(found: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    for name, values in expected.items():
        bound = ERROR_MAX * float(np.abs(np.nan_to_num(values)).max(initial=0))
        is_alike = found[name].shape == values.shape
        if not (is_alike and np.allclose(found[name], values, rtol=0, atol=bound, equal_nan=True)):
            reason = f"answers differently in opset {OPSET_MIN}: output {name!r} is off by more than {bound:.3g}"
            raise _unsupported(reason)


def _unsupported(reason: str) -> UsageError:
    return UsageError("model-unsupported", f"the model {reason}", _HINT)
