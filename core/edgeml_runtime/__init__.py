"""A bundle opened and run, the same on host and device: runtimes, tasks, golden outputs.

No network, no training libraries; the only files touched are the bundle's own.
"""

import os

# Set before the import, this keeps onnxruntime's Linux wheels from sending telemetry and writing to the user's cache.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
