"""Quantization of ONNX models: one module for each pass, and the recipes that combine them."""
