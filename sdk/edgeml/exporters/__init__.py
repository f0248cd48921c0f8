"""A source model becomes fp32 model files: `load` reads it, `onnx` and `tflite` write it.

Nothing here quantizes, judges or packs. Importing this package imports no training library.
"""
