"""A model's answers to single items, and the answers as vectors to compare. The device's code makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeml_core.manifest import Manifest
from edgeml_core.processing import Boxes, Classes, Generation, Span, TokenClasses
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Answer, Item, Picture, Tokens
from edgeml_runtime.tensors import Array


def predict(model: Model, items: Sequence[Item]) -> list[Answer]:
    """Answer each item in a run of its own: a batch would scale dynamic activations over all its items."""
    return [model.predict([item])[0] for item in items]


def scores(model: Model, items: Sequence[Item]) -> list[Answer]:
    """Answer as `predict`; spans, boxes and generated tokens are replaced by the scores that they are chosen by."""
    spec = model.manifest.postprocess
    match spec:
        case Boxes(logits=logits, boxes=boxes):
            return [_outputs(model, item, (logits, boxes)) for item in items]
        case Span(start=start, end=end):
            return [_outputs(model, item, (start, end)) for item in items]
        case Generation(output=output):
            return [_outputs(model, item, (output,)) for item in items]
        case _:
            return predict(model, items)


def _outputs(model: Model, item: Item, names: Sequence[str]) -> Answer:
    """Run one item: a question's scores without padding, a prompt's for the next token, all of a picture."""
    prepared = model.prepare([item])
    outputs = model.infer(prepared.tensors)
    match prepared.about:
        case [Tokens() as tokens]:
            taken: slice | int = slice(len(tokens.texts))
        case [Picture()]:
            taken = slice(None)
        case _:
            taken = -1
    return {"outputs": {name: outputs[name][0, taken].tolist() for name in names}}


def outputs(answer: Answer) -> dict[str, Array]:
    """Return the numbers of an answer in tensors: float64 by output name, in their own shapes."""
    given: Mapping[str, Any] = answer
    return {name: np.asarray(values, dtype=np.float64) for name, values in given["outputs"].items()}


def vector(answer: Answer, manifest: Manifest) -> Array:
    """Flatten an answer to one float64 vector, comparable between two models of one signature."""
    given: Mapping[str, Any] = answer
    match manifest.postprocess:
        case Classes(labels=labels):
            scores = {entry["label"]: entry["score"] for entry in given["labels"]}
            return np.array([scores[label] for label in labels])
        case TokenClasses(labels=labels):
            return np.array([_at(labels, entry) for entry in given["tokens"]]).ravel()
        case _:
            if "outputs" in given:
                return np.concatenate([values.ravel() for values in outputs(answer).values()])
            return np.asarray(given["embedding"], dtype=np.float64)


def _at(labels: Sequence[str], entry: Mapping[str, Any]) -> list[float]:
    """Put a token's best score at its label's place: another label gives an orthogonal vector."""
    return [entry["score"] if label == entry["label"] else 0.0 for label in labels]
