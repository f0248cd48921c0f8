"""KServe's Python server with a custom predictor, as its documentation describes: `kserve_server.py PORT`."""

from __future__ import annotations

import sys

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.logging import KSERVE_LOG_CONFIG
from kserve.utils.numpy_codec import from_np_dtype
from kserve.utils.utils import generate_uuid
from onnx_model import NAME, OnnxModel


class OnnxPredictor(Model):
    """onnxruntime behind KServe."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self._model = OnnxModel()
        self.ready = True

    def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:  # noqa: ANN001, ARG002 - KServe's signature
        """See `Model.predict`."""
        outputs = self._model.run({it.name: it.as_numpy() for it in payload.inputs})
        encoded = []
        for name, array in outputs.items():
            output = InferOutput(name, list(array.shape), from_np_dtype(array.dtype))
            output.set_data_from_numpy(array, binary_data=False)
            encoded.append(output)
        return InferResponse(generate_uuid(), self.name, encoded)


if __name__ == "__main__":
    for name in ("kserve.trace", "uvicorn.access"):  # the other servers log no requests
        KSERVE_LOG_CONFIG["loggers"][name]["level"] = "WARNING"
    port = int(sys.argv[1])
    ModelServer(http_port=port, enable_grpc=False, workers=1, enable_latency_logging=False).start([OnnxPredictor()])
