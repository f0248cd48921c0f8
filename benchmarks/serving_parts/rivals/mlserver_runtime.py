"""MLServer's custom runtime, as its documentation describes ("Custom Inference Runtimes")."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from onnx_model import OnnxModel


class OnnxRuntime(MLModel):
    """onnxruntime behind MLServer."""

    async def load(self) -> bool:
        """See `MLModel.load`."""
        self._model = OnnxModel()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """See `MLModel.predict`."""
        outputs = self._model.run({it.name: NumpyCodec.decode_input(it) for it in payload.inputs})
        encoded = [NumpyCodec.encode_output(name, array) for name, array in outputs.items()]
        return InferenceResponse(model_name=self.name, outputs=encoded)
