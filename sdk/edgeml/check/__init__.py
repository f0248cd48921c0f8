"""Checks whether a candidate is as good as the original: parity, accuracy, latency and memory. `gate` decides.

Models run through `edgeml_runtime`, as on the device. No check changes a model.
"""
