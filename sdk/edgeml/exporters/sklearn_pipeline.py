"""The adapter to skl2onnx: a fitted scikit-learn estimator or pipeline, over rows of numbers.

A classifier answers with its probabilities by label, any other estimator with the numbers that it predicts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import skl2onnx
from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs
from sklearn.base import is_classifier
from sklearn.exceptions import NotFittedError

from edgeml.exporters.source import Signature, Source
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Task, TensorSpec
from edgeml_core.processing import Classes, Postprocess, TensorInput, TensorOutput
from edgeml_runtime.tensors import Array

INPUT: Final = "input"
_OPSETS: Final = {"": 17, "ai.onnx.ml": 3}
_PROBABILITIES: Final = "probabilities"
_PREDICTED: Final = "variable"


class Estimator:
    """A fitted estimator as a runtime session."""

    def __init__(self, estimator: Any) -> None:  # noqa: ANN401 -- scikit-learn has no types
        self.output = _PROBABILITIES if is_classifier(estimator) else _PREDICTED
        self._predict = estimator.predict_proba if is_classifier(estimator) else estimator.predict

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Predict rows, float32 [rows, columns]; the output is probabilities or numbers, float32 [rows, values]."""
        rows = inputs[INPUT]
        return {self.output: np.asarray(self._predict(rows), dtype=np.float32).reshape(len(rows), -1)}

    def close(self) -> None:
        """Free nothing."""


def source(name: str, estimator: Any, rows: object, work: Path, *, task: Task | None) -> Source:  # noqa: ANN401 -- as above
    """Describe a fitted estimator as a model.

    Args:
        name: fit to name a release.
        estimator: or a pipeline.
        rows: examples of its input, numbers only.
        work: a folder for temporary files.
        task: None or `tensors`.

    Raises:
        UsageError: `model-unreadable`, when it isn't fitted or the rows don't fit it; `model-unsupported`, when ONNX
            has no operator for it, it is a classifier without probabilities, or a task is named.
    """
    if task not in (None, "tensors"):
        raise UsageError("model-unsupported", f"task {task} is not for rows of numbers", "leave out --task")
    if is_classifier(estimator) and not hasattr(estimator, "predict_proba"):
        hint = "use one with predict_proba, or wrap it in CalibratedClassifierCV"
        raise UsageError("model-unsupported", f"{type(estimator).__name__} gives no probabilities", hint)
    try:
        example = np.asarray(rows, dtype=np.float32)
        original = Estimator(estimator)
        width = original.run({INPUT: example})[original.output].shape[-1]
    except (ValueError, TypeError, NotFittedError, AttributeError) as error:
        hint = "return (fitted estimator, rows of numbers)"
        raise UsageError("model-unreadable", f"the estimator can't predict its example: {error}", hint) from error
    model = _convert(estimator, example, original.output)
    path = work / "estimator.onnx"
    onnx.save(model, path)
    return Source(
        name=name,
        task="tensors",
        kind="estimator",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        signature=Signature(
            inputs=(TensorSpec(name=INPUT, dtype="float32", shape=(-1, *example.shape[1:])),),
            outputs=(TensorSpec(name=original.output, dtype="float32", shape=(-1, width)),),
            preprocess=TensorInput(),
            postprocess=_postprocess(estimator, original.output),
        ),
        example={INPUT: example[:1]},
        original=original,
        original_name="scikit-learn",
        assets={},
        model=path,
        tools={name: metadata.version(name) for name in ("scikit-learn", "skl2onnx")},
    )


def _postprocess(estimator: Any, output: str) -> Postprocess:  # noqa: ANN401 -- as above
    if not is_classifier(estimator):
        return TensorOutput()
    return Classes(output=output, labels=tuple(map(str, estimator.classes_)), activation="none")


def _convert(estimator: Any, example: Array, output: str) -> onnx.ModelProto:  # noqa: ANN401 -- as above
    options = {id(estimator): {"zipmap": False}} if is_classifier(estimator) else None
    try:
        model = skl2onnx.to_onnx(
            estimator,
            initial_types=[(INPUT, skl2onnx.common.data_types.FloatTensorType([None, *example.shape[1:]]))],
            name=type(estimator).__name__,  # the default is random
            options=options,
            target_opset=_OPSETS,
        )
        return select_model_inputs_outputs(model, [output])
    except Exception as error:  # skl2onnx's exceptions share no base
        hint = "use an estimator that skl2onnx supports"
        raise UsageError("model-unsupported", f"can't convert this model to ONNX: {error}", hint) from error
