"""Is the bundle as good as the original? Parity, accuracy, latency, memory, each in its file; `gate` decides.

Models run through `edgeml_runtime`, as they will on the device. Nothing here changes a model.
"""
