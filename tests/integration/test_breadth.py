"""Every family of models that edgeml takes: exported by default, answered by `edgeml run`'s code, close to its source.

One table. What LiteRT or ONNX can't convert stands in it with the operator that the refusal names.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeml import inference
from edgeml.check.predictions import vector
from edgeml.pipeline.export import export
from edgeml.pipeline.request import ExportRequest
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Format
from edgeml_core.processing import Boxes, Generation, Span
from edgeml_runtime.verify.golden import cosine
from support import breadth_models as models
from support import sounds

BOTH: tuple[Format, ...] = ("onnx", "tflite")
ONNX: tuple[Format, ...] = ("onnx",)
#: In TFLite each fixed length takes seconds to compile; one is enough for most families.
SHORT = partial(models.pretrained, tokens=32)
COSINE_MIN = 0.98


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the table.

    Args:
        build: writes the model into a folder and returns what `edgeml export` is to be given.
        formats: must work.
        refused: by format, the operator that the refusal names.
        nightly: whether `make test` leaves it out.
    """

    family: str
    task: str
    build: Callable[[Path, str, str], str] = models.pretrained
    formats: tuple[Format, ...] = BOTH
    refused: dict[Format, str] = field(default_factory=dict)
    nightly: bool = False

    @property
    def id(self) -> str:
        """Its name in the test's."""
        return f"{self.family}-{self.task}-{'+'.join(self.formats)}"


#: Of the encoders with every head in ONNX, those of `make test`: each head once, which tests/oracle hasn't by day.
DAILY = (("bert", "question-answering"), ("roberta", "feature-extraction"), ("deberta-v2", "token-classification"))
CASES = [
    # Every encoder with every head in ONNX; in TFLite each encoder and each head once.
    *(
        Case(family=family, task=task, formats=ONNX, nightly=(family, task) not in DAILY)
        for family in ("bert", "distilbert", "roberta", "deberta", "deberta-v2")
        for task in ("text-classification", "token-classification", "question-answering", "feature-extraction")
    ),
    Case(family="bert", task="question-answering", formats=("tflite",), nightly=True),
    Case(family="distilbert", task="text-classification", build=SHORT, formats=("tflite",)),
    Case(family="roberta", task="token-classification", build=SHORT, formats=("tflite",), nightly=True),
    Case(family="deberta", task="feature-extraction", build=SHORT, formats=("tflite",), nightly=True),
    Case(family="deberta-v2", task="text-classification", build=SHORT, formats=("tflite",), nightly=True),
    Case(family="vit", task="image-classification"),
    Case(family="mobilenet-v2", task="image-classification", formats=ONNX, nightly=True),
    Case(family="mobilenet-v2", task="image-classification", formats=("tflite",), nightly=True),
    *(Case(family=it, task="image-classification", nightly=True) for it in ("resnet", "convnext")),
    Case(
        family="yolos", task="object-detection", formats=("tflite",), nightly=True
    ),  # test_detection.py has it in ONNX
    Case(family="detr", task="object-detection", formats=ONNX, nightly=True),
    Case(family="wav2vec2", task="audio-classification", formats=ONNX, nightly=True),
    Case(family="ast", task="audio-classification", nightly=True),
    *(Case(family=it, task="tensors", build=models.function, nightly=True) for it in ("cnn-1d", "lstm", "mlp")),
    Case(family="program", task="tensors", build=models.program),
    Case(family="file", task="tensors", build=models.onnx_file, formats=ONNX, refused={"tflite": "PyTorch"}),
    Case(family="forest", task="tensors", build=models.function, formats=ONNX, refused={"tflite": "Scaler"}),
    Case(
        family="ridge",
        task="tensors",
        build=models.function,
        formats=ONNX,
        refused={"tflite": "LinearRegressor"},
        nightly=True,
    ),
    Case(family="gpt2", task="text-generation", formats=ONNX, refused={"tflite": "Concat"}),
    Case(
        family="spectrum",
        task="tensors",
        build=models.function,
        formats=(),
        refused={"onnx": "aten::linalg_svdvals", "tflite": "aten._linalg_svd"},
    ),
]


@pytest.mark.parametrize(
    "case", [pytest.param(it, marks=[pytest.mark.nightly] if it.nightly else [], id=it.id) for it in CASES]
)
def test_a_family_exports_and_answers(case: Case, tmp_path: Path):
    """Close to its source in every format of its row, one item or several of different lengths; else one clear line."""
    model = case.build(tmp_path / "model", case.family, case.task)
    for file_format in case.formats:
        request = ExportRequest(
            model=model, name="it", targets=("x86-vnni",), formats=(file_format,), output=tmp_path / "out"
        )
        (exported,) = export(request)
        assert exported.manifest.task == case.task
        assert exported.manifest.card.parity.cosine >= COSINE_MIN
        assert exported.manifest.card.parity.against in ("PyTorch", "ONNX fp32", "scikit-learn")
        asked = requests(case)
        alone = [inference.run(exported.path, one)[0] for one in asked]
        together = inference.run(exported.path, asked)
        assert [answer.keys() for answer in together] == [answer.keys() for answer in alone]
        if not isinstance(exported.manifest.postprocess, Span | Generation | Boxes):
            for one, other in zip(alone, together, strict=True):
                vectors = (vector(answer, exported.manifest) for answer in (one, other))
                assert cosine(*vectors) >= COSINE_MIN
    for file_format, operator in case.refused.items():
        request = ExportRequest(model=model, targets=("x86-vnni",), formats=(file_format,), output=tmp_path / "none")
        with pytest.raises(UsageError, match=operator) as caught:
            export(request)
        assert caught.value.code == "model-unsupported"
        assert "\n" not in caught.value.message
        assert not (tmp_path / "none").exists()


SHAPES = {
    "program": (1, 3, 16),
    "lstm": (1, models.LSTM_STEPS, 6),
    "cnn-1d": (1, 3, 64),
    "mlp": (1, 8),
    "file": (1, 64),
    "forest": (1, 4),
    "ridge": (1, 10),
}


def requests(case: Case) -> list[dict[str, Any]]:
    """Two requests unlike each other, in length where that is free."""
    match case.task:
        case "question-answering":
            alarm = "The ventilator alarm sounded twice during the night shift."
            return [{"question": "When?", "context": "On Monday."}, {"question": "What sounded?", "context": alarm}]
        case "text-generation":
            return [{"prompt": "The pump", "max_new_tokens": 5}, {"prompt": "Turn the machine", "temperature": 1}]
        case "image-classification" | "object-detection":
            return [{"image": picture(shade)} for shade in (40, 200)]
        case "audio-classification":
            file = base64.b64encode(sounds.wav(sounds.tone(0.7))).decode()
            return [{"audio": file}, {"samples": sounds.tone(0.4).tolist(), "sampling_rate": sounds.SAMPLING_RATE_HZ}]
        case "tensors":
            return [{"inputs": {"input": np.full(SHAPES[case.family], value).tolist()}} for value in (0.5, -0.25)]
        case _:
            return [{"text": "No fault was found."}, {"text": "Water boils at a lower temperature there, oddly."}]


def picture(shade: int) -> str:
    """A gradient in base64."""
    held = io.BytesIO()
    pixels = np.linspace(0, shade, 48 * 40 * 3).reshape(48, 40, 3).astype(np.uint8)
    Image.fromarray(pixels).save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode()
