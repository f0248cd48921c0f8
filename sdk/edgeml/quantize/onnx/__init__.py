"""ONNX models quantized: one pass a module, and the recipes that combine them."""
