"""Quantization of fp32 models: `recipes` has the table of recipes and their order, one module for each pass the work.

`edgeml.check` measures the result. Importing this package imports no quantizer.
"""
