"""Exporters from a source model to fp32 model files: `load` reads it, `to_onnx` and `to_tflite` convert it.

Quantization, checks and packing are left to other packages. Importing this package imports no training library.
"""
