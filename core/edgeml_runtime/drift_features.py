"""Drift features of a run: a few numbers and a label for each item, the same on host and device.

Two tables have one function for each kind of pre- and postprocessing; a kind without one has no features. A request
can't be recovered from these numbers. This module only computes them, and its callers keep counts alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
import numpy as np

from edgeml_core.manifest import Manifest
from edgeml_core.processing import (
    AudioInput,
    Boxes,
    Classes,
    Decoded,
    Embedding,
    ImageInput,
    MaskFill,
    QuestionInput,
    Span,
    TensorInput,
    TensorOutput,
    TextInput,
    TokenClasses,
    Transcript,
)
from edgeml_runtime import tasks
from edgeml_runtime.inputs import Prepared
from edgeml_runtime.postprocess import classification, detection, embeddings, fill_mask, question_answering, speech
from edgeml_runtime.tasks import Audio, Item, ItemInfo, Picture, Row, Tokens
from edgeml_runtime.tensors import Array

#: Columns of a tensor input that are features of their own; the mean of the others is one more.
FEATURES_MAX: Final = 8
#: Output tensors with a feature, the first by name; bounds what a device counts for one model.
OUTPUTS_MAX: Final = 4
#: Fixed directions along which an embedding is projected; a shift of all vectors shows in a few of them.
DIRECTIONS: Final = 4
#: Rows of one run whose features are computed; bounds the time that a large batch adds.
ROWS_MAX: Final = 16
#: Root mean square of the quietest sound, full scale 1 (-100 dB); silence has no logarithm.
_RMS_MIN: Final = 1e-5
#: By quantity, in its own unit: a smaller difference means nothing, since another CPU adds in another order.
RESOLUTIONS: Final[dict[str, float]] = {
    "tokens": 0.5,
    "objects": 0.5,
    "score": 0.02,
    "margin": 0.02,
    "loudness dB": 1.0,
    "duration s": 0.05,
}

#: Quantities by name: a number, or the name of a label.
Observation: TypeAlias = Mapping[str, float | str]


class Run(NamedTuple):
    """One run of a model: the items, their tensors, and the outputs by tensor name."""

    items: Sequence[Item]
    prepared: Prepared
    outputs: Mapping[str, Array]


class _InputRow(NamedTuple):
    """One item of a run, and its row of the inputs."""

    item: Item
    inputs: Mapping[str, Array]
    tokens: Tokens | None


def observations(run: Run, manifest: Manifest) -> Iterator[Observation]:
    """Compute the features of a run's items, at most `ROWS_MAX`; numbers that aren't finite are left out.

    Raises:
        EdgemlError: an output doesn't have one row for each item, or its shape doesn't fit the manifest.
    """
    of_input = _INPUTS.get(type(manifest.preprocess), _nothing)
    of_output = _OUTPUTS.get(type(manifest.postprocess), _nothing)
    for inputs, row in _rows(run, manifest):
        found = {**of_output(row, manifest.postprocess), **of_input(inputs, manifest.preprocess)}
        yield {name: value for name, value in found.items() if isinstance(value, str) or math.isfinite(value)}


def is_observed(manifest: Manifest) -> bool:
    """Return whether a model has drift features; those that write token by token have none."""
    return type(manifest.preprocess) in _INPUTS and not isinstance(manifest.postprocess, Decoded)


def _rows(run: Run, manifest: Manifest) -> Iterator[tuple[_InputRow, Row]]:
    prepared, items, outputs = run.prepared, run.items, run.outputs
    about: Sequence[ItemInfo] = prepared.about
    if isinstance(manifest.preprocess, TensorInput):
        (item,) = items
        lengths = {array.shape[:1] for array in (*prepared.tensors.values(), *outputs.values())}
        if len(lengths) > 1 or () in lengths:  # no batch dimension: the tensors are one row as they are
            yield _InputRow(item, prepared.tensors, None), Row(outputs=outputs)
            return
        length = min(*lengths.pop(), ROWS_MAX)
        outputs = {name: array[:length] for name, array in outputs.items()}
        items, about = [item] * length, [None] * length
    found = tasks.rows(outputs, about, manifest.postprocess)
    for index, (item, row) in enumerate(zip(items, found, strict=True)):
        inputs = {name: array[index] for name, array in prepared.tensors.items()}
        yield _InputRow(item, inputs, row.tokens), row


def _nothing(*_: object) -> Observation:
    return {}


def _text(row: _InputRow, _: object) -> Observation:
    return {"tokens": float(len(row.tokens.texts))} if row.tokens else {}


def _image(row: _InputRow, _: object) -> Observation:
    (pixels,) = row.inputs.values()
    return {"brightness": _mean(pixels), "contrast": float(pixels.std())}


def _audio(row: _InputRow, _: object) -> Observation:
    if not isinstance(row.item, Audio) or not row.item.samples.size:
        return {}
    samples = row.item.samples
    rms = math.sqrt(float(np.dot(samples, samples)) / samples.size)
    return {
        "loudness dB": 20 * math.log10(max(rms, _RMS_MIN)),
        "duration s": samples.size / row.item.sampling_rate_hz,
    }


def _tensors(row: _InputRow, _: object) -> Observation:
    return {name: value for part, array in row.inputs.items() for name, value in _features(f"input {part}", array)}


def _features(name: str, array: Array) -> Iterator[tuple[str, float]]:
    """Name the features of one row of an input: its columns; of more axes, mean and spread. Texts have none."""
    if array.dtype == object:
        return
    if array.ndim == 0:
        yield name, float(array)
    elif array.ndim == 1:
        for index, value in enumerate(array[:FEATURES_MAX].tolist()):
            yield f"{name}[{index}]", float(value)
        if array.size > FEATURES_MAX:
            yield f"{name}[{FEATURES_MAX}:]", _mean(array[FEATURES_MAX:])
    elif array.size:
        yield f"{name} mean", _mean(array)
        yield f"{name} spread", float(array.std(dtype=np.float32))


def _classes(row: Row, spec: Classes) -> Observation:
    logits = row.outputs[spec.output]
    scores = _SCORES.get(spec.activation, np.asarray)(logits).ravel()
    first, second = _two_highest(scores)
    found: dict[str, float | str] = {"label": spec.labels[first], "score": float(scores[first])}
    if len(scores) > 2:  # with two labels the margin follows from the score
        found["margin"] = float(scores[first] - scores[second])
    return found


def _two_highest(scores: Array) -> tuple[int, int]:
    """Return the indices of the highest score and of the next one; scores are float [labels]."""
    first = int(scores.argmax())
    others = scores.copy()
    others[first] = -np.inf
    return first, int(others.argmax())


def _token_classes(row: Row, spec: TokenClasses) -> Observation:
    scores = [entry["score"] for entry in classification.token_classes(row, spec)["tokens"]]
    return {"score": sum(scores) / len(scores)} if scores else {}


def _fills(row: Row, spec: MaskFill) -> Observation:
    return {"score": float(fill_mask.probabilities(row, spec).max())}


def _boxes(row: Row, spec: Boxes) -> Observation:
    """Count the objects above the model's own threshold, not the request's, and take the one with the highest score."""
    about = msgspec.structs.replace(row.about, threshold=None) if isinstance(row.about, Picture) else row.about
    found = detection.boxes(Row(outputs=row.outputs, about=about), spec)["boxes"]
    count = {"objects": float(len(found))}
    return {**count, "label": found[0]["label"], "score": found[0]["score"]} if found else count


def _transcript(row: Row, spec: Transcript) -> Observation:
    return {"score": speech.certainty(row, spec)}


def _span(row: Row, spec: Span) -> Observation:
    return {"score": question_answering.span(row, spec)["score"]}


def _embedding(row: Row, spec: Embedding) -> Observation:
    """Project a vector on a few fixed directions, and take its length unless it is normalized.

    The projections shift when the distribution of the vectors does.

    Source: Achlioptas, Database-friendly random projections (2003): random signs keep distances as well as any.
    """
    vector = np.asarray(embeddings.embedding(row, spec)["embedding"], dtype=np.float32)
    vector = vector if vector.ndim == 1 else vector.mean(axis=0)
    along = (_directions(vector.size) @ vector).tolist()
    found = {f"direction {number}": value for number, value in enumerate(along, 1)}
    return found if spec.normalize else {**found, "length": float(np.linalg.norm(vector))}


@lru_cache(maxsize=8)
def _directions(size: int) -> Array:
    """Make unit vectors of signs from a hash, the same on every machine: float32 [DIRECTIONS, size]."""
    data = hashlib.shake_256(b"edgeml drift").digest(DIRECTIONS * -(-size // 8))
    bits = np.unpackbits(np.frombuffer(data, np.uint8)).reshape(DIRECTIONS, -1)[:, :size]
    return (bits.astype(np.float32) * 2 - 1) / np.float32(math.sqrt(size))


def _output_tensors(row: Row, _: object) -> Observation:
    return {f"output {name}": _mean(row.outputs[name]) for name in sorted(row.outputs)[:OUTPUTS_MAX]}


def _mean(array: Array) -> float:
    return float(array.mean(dtype=np.float32)) if array.size else math.nan


_SCORES: Final[dict[str, Callable[[Array], Array]]] = {
    "softmax": classification.softmax,
    "sigmoid": classification.sigmoid,
}

_INPUTS: Final[dict[type, Callable[[_InputRow, Any], Observation]]] = {
    TextInput: _text,
    QuestionInput: _text,
    ImageInput: _image,
    AudioInput: _audio,
    TensorInput: _tensors,
}

_OUTPUTS: Final[dict[type, Callable[[Row, Any], Observation]]] = {
    Classes: _classes,
    TokenClasses: _token_classes,
    MaskFill: _fills,
    Boxes: _boxes,
    Transcript: _transcript,
    Span: _span,
    Embedding: _embedding,
    TensorOutput: _output_tensors,
}
