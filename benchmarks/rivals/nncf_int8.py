"""Quantize a BERT with NNCF's post-training int8: `nncf_int8.py MODEL.onnx INPUTS.npz FOLDER`.

`NNCF int8` has the settings of NNCF's documentation for transformers. `NNCF int8 smooth` has another SmoothQuant alpha,
and `smooth-N` leaves in float the N products that lose most accuracy on MiniLM in int8. These settings were found by
experiment: other alphas, ranges, bias corrections and products were slower or less accurate.
It runs in OpenVINO's environment, which has no edgeml.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nncf
import numpy as np
import openvino
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, AdvancedSmoothQuantParameters

SMOOTH_ALPHA = 0.75
#: Layers of MiniLM in the order of the accuracy that int8 loses in their last product; the worst first.
SENSITIVE_LAYERS = (0, 4, 1, 3, 2, 5)
FLOAT_PRODUCTS = (3, 4, 5, 6)
LAST_PRODUCT = "/encoder/layer.{}/output/dense/MatMul"


def main(onnx: str, inputs: str, folder: Path) -> None:
    """Fix the shapes to those of the inputs, calibrate on them, and save a model for each setting."""
    with np.load(inputs) as stacked:
        arrays = {name: stacked[name] for name in stacked.files}
    count = len(next(iter(arrays.values())))
    rows = [{name: array[row : row + 1] for name, array in arrays.items()} for row in range(count)]
    smooth = AdvancedQuantizationParameters(smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=SMOOTH_ALPHA))
    settings = {"": {}, " smooth": {"advanced_parameters": smooth}}
    layers = _layers(onnx)
    for products in (it for it in FLOAT_PRODUCTS if it <= len(layers)):
        ignored = nncf.IgnoredScope(names=[LAST_PRODUCT.format(it) for it in layers[:products]])
        settings[f" smooth-{products}"] = {"advanced_parameters": smooth, "ignored_scope": ignored}
    folder.mkdir()
    for name, options in settings.items():
        model = openvino.Core().read_model(onnx)
        model.reshape({name: [1, *array.shape[1:]] for name, array in arrays.items()})
        small = nncf.quantize(
            model, nncf.Dataset(rows), model_type=nncf.ModelType.TRANSFORMER, subset_size=count, **options
        )
        openvino.save_model(small, folder / f"NNCF int8{name}.xml", compress_to_fp16=False)


def _layers(onnx: str) -> list[int]:
    """Return the sensitive layers that a model has: six in MiniLM, fewer in a quick run's encoder."""
    names = {it.get_friendly_name() for it in openvino.Core().read_model(onnx).get_ops()}
    return [it for it in SENSITIVE_LAYERS if LAST_PRODUCT.format(it) in names]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
