"""The model that a rival serves: onnxruntime with the file and the session options that the agent's bundle has.

Runs in the rival's own environment, which has no edgeml. `SERVED_MODEL` is JSON: name, path, threads, options.
"""

from __future__ import annotations

import json
import os

import numpy as np
import onnxruntime

NAME: str = json.loads(os.environ["SERVED_MODEL"])["name"]
_LOG_FATAL = 4


class OnnxModel:
    """One session, which takes inputs by name and returns outputs by name."""

    def __init__(self) -> None:
        served = json.loads(os.environ["SERVED_MODEL"])
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = served["threads"]
        settings.inter_op_num_threads = 1
        settings.log_severity_level = _LOG_FATAL
        for key, value in served["options"].items():
            settings.add_session_config_entry(key, value)
        self._session = onnxruntime.InferenceSession(served["path"], settings, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        self.input_types = {
            it.name: np.int64 if it.type == "tensor(int64)" else np.float32 for it in self._session.get_inputs()
        }

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one inference."""
        return dict(zip(self._names, self._session.run(self._names, inputs), strict=True))
