"""LitServe's server with a `LitAPI`, as its documentation describes; JSON of its own: `litserve_server.py PORT`."""

from __future__ import annotations

import sys

import litserve
import numpy as np
from onnx_model import OnnxModel


class OnnxApi(litserve.LitAPI):
    """onnxruntime behind LitServe."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        """See `LitAPI.setup`."""
        self.model = OnnxModel()

    def decode_request(self, request: dict) -> dict[str, np.ndarray]:
        """See `LitAPI.decode_request`."""
        types = self.model.input_types
        return {name: np.array(values, types[name]) for name, values in request["inputs"].items()}

    def predict(self, x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `LitAPI.predict`."""
        return self.model.run(x)

    def encode_response(self, output: dict[str, np.ndarray]) -> dict:
        """See `LitAPI.encode_response`."""
        return {"outputs": {name: array.tolist() for name, array in output.items()}}


if __name__ == "__main__":
    server = litserve.LitServer(OnnxApi(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
