"""`nncf_int8.py MODEL.onnx INPUTS.npz OUT.xml`: NNCF's post-training int8, as its documentation has it for BERT."""

from __future__ import annotations

import sys
from pathlib import Path

import nncf
import numpy as np
import openvino


def main(onnx: str, inputs: str, out: Path) -> None:
    """Fix the shapes to those of the inputs, calibrate on them, save."""
    with np.load(inputs) as stacked:
        arrays = {name: stacked[name] for name in stacked.files}
    model = openvino.Core().read_model(onnx)
    model.reshape({name: [1, *array.shape[1:]] for name, array in arrays.items()})
    count = len(next(iter(arrays.values())))
    rows = [{name: array[row : row + 1] for name, array in arrays.items()} for row in range(count)]
    calibration = nncf.Dataset(rows)
    small = nncf.quantize(model, calibration, model_type=nncf.ModelType.TRANSFORMER, subset_size=count)
    out.parent.mkdir()
    openvino.save_model(small, out, compress_to_fp16=False)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
