"""A bundle opened and run, the same on host and device: runtimes, tasks, the golden check.

No network, no training libraries; the only files touched are the bundle's own.
"""

import os

# onnxruntime's Linux wheels phone home and leave files in the user's cache unless told not to before the import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
