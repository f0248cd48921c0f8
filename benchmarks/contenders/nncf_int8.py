"""`nncf_int8.py MODEL.onnx INPUTS.npz FOLDER`: a BERT in NNCF's post-training int8, as it comes and more accurate.

`NNCF int8` has the settings that NNCF's documentation has for transformers. `NNCF int8 smooth` weighs activations and
weights more evenly, and `smooth-N` leaves in float the N products that int8 hurts most on MiniLM. Both were found by
trying: other weights of SmoothQuant, other ranges, bias corrections and products were slower or less accurate.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nncf
import numpy as np
import openvino
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, AdvancedSmoothQuantParameters

SMOOTH_ALPHA = 0.75
#: Layers, by what int8 costs in the product that ends them; the worst first.
HURT_LAYERS = (0, 4, 1, 3, 2, 5)
FLOAT_PRODUCTS = (3, 4, 5, 6)


def main(onnx: str, inputs: str, folder: Path) -> None:
    """Fix the shapes to those of the inputs, calibrate on them, save."""
    with np.load(inputs) as stacked:
        arrays = {name: stacked[name] for name in stacked.files}
    count = len(next(iter(arrays.values())))
    rows = [{name: array[row : row + 1] for name, array in arrays.items()} for row in range(count)]
    smooth = AdvancedQuantizationParameters(smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=SMOOTH_ALPHA))
    settings = {"": {}, " smooth": {"advanced_parameters": smooth}}
    for products in FLOAT_PRODUCTS:
        left = nncf.IgnoredScope(names=[f"/encoder/layer.{it}/output/dense/MatMul" for it in HURT_LAYERS[:products]])
        settings[f" smooth-{products}"] = {"advanced_parameters": smooth, "ignored_scope": left}
    folder.mkdir()
    for name, asked in settings.items():
        model = openvino.Core().read_model(onnx)
        model.reshape({name: [1, *array.shape[1:]] for name, array in arrays.items()})
        small = nncf.quantize(
            model, nncf.Dataset(rows), model_type=nncf.ModelType.TRANSFORMER, subset_size=count, **asked
        )
        openvino.save_model(small, folder / f"NNCF int8{name}.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
