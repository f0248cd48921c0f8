"""Oracle: the fp32 form, asked as a device asks it, gives the answers of the original's own library.

Parity compares with the original behind edgeml's own preparation, so it can't see a fault of that. Here nothing but the
item is shared. Each item is asked alone and among others, since clients send both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgeml.oracle.protocol import LibraryAnswer
from edgeml_core.card import Oracle
from edgeml_core.errors import EdgemlError, GateFailed
from edgeml_core.manifest import TensorSpec
from edgeml_core.processing import (
    INPUT_IDS,
    Boxes,
    Classes,
    DecodedText,
    DecodedTranscript,
    Embedding,
    Generation,
    MaskFill,
    Preprocess,
    Span,
    TensorOutput,
    TextInput,
    TokenClasses,
    Transcript,
)
from edgeml_runtime import tensors
from edgeml_runtime.encode.text import Encoder
from edgeml_runtime.model import Model
from edgeml_runtime.postprocess import detection
from edgeml_runtime.tasks import Answer, Audio, Image, Item, Prompt, Question, Tensors, Text
from edgeml_runtime.tensors import Array
from edgeml_runtime.verify.golden import cosine

#: The distance of two scores of one label. fp32 adds in another order in each runtime: 1e-5 is usual.
SCORE_MAX: Final = 1e-3
#: Roundings of a number; in float16 each is as large as `SCORE_MAX`.
ROUNDINGS_MAX: Final = 16
COSINE_MIN: Final = 0.9999
#: The distance of two numbers of a prepared picture: two levels of 255 of a channel whose deviation is a quarter.
INPUT_MAX: Final = 2 / 255 / 0.25
#: Pixels between the edges of two boxes of one object: both are rounded.
EDGE_MAX: Final = 1
#: Characters of an item in a message.
SHOWN_CHARS: Final = 60
_HINT: Final = (
    "report the model's type: edgeml prepares its inputs or reads its outputs in another way than the model's own "
    "library; file.py:function exports the model without preparation"
)
_MODULE_HINT: Final = "compute with tensors only in forward, without Python numbers made of them, and keep no state"
_ROWS_HINT: Final = "take a model that can be converted exactly, and whose answers don't jump between near rows"


def unread_counter(preprocess: Preprocess, assets: Mapping[str, Path]) -> Callable[[str], int] | None:
    """Return a function that counts the tokens of a text that a bundle cuts off; None for models of anything else."""
    if not isinstance(preprocess, TextInput) or preprocess.tokenizer not in assets:
        return None
    ids = TensorSpec(name=INPUT_IDS, dtype="int64", shape=(-1, -1))
    encoder = Encoder(assets[preprocess.tokenizer], preprocess, (ids,))
    return lambda text: encoder.encode([Text(text)])[1][0].unread


def check(model: Model, items: Sequence[Item], answers: Sequence[LibraryAnswer], library: str) -> Oracle:
    """Compare a model's answers with those of the original's library.

    Some items count for nothing: the library itself can't answer them, or the model refuses them, or it says that it
    didn't read all.

    Args:
        model: the fp32 form, opened as on a device.
        items: the items.
        answers: the library's answers.
        library: its name and version.

    Raises:
        GateFailed: `gate-failed`, naming the first item with another answer, and both answers; or the model can't run
            it; or no item was compared.
    """
    difference = (
        _tensors(answers)
        if isinstance(model.manifest.postprocess, TensorOutput)
        else _DIFFERENCES[type(model.manifest.postprocess)]
    )
    read: list[tuple[Item, Mapping[str, Any]]] = []
    for item, it in zip(items, answers, strict=True):
        alone = _ask(model, [item]) if it.answer is not None else None
        if it.answer is None:
            continue
        if alone is None and isinstance(item, Tensors) and _has_its_batch(model, item):
            _refuse_if("refused by the bundle, but answered", item, library)
        if alone is None or "truncated" in alone[0]:
            continue
        _refuse_if(_inputs(model, item, it), item, library)
        _refuse_if(_outputs(model, item, it), item, library)
        _refuse_if(difference(alone[0], it.answer), item, library)
        read.append((item, it.answer))
    if not read:
        errors = next((it.error for it in answers if it.error), "the bundle reads none of them whole")
        raise GateFailed("gate-failed", f"none of {len(items)} items could be compared with {library}: {errors}", _HINT)
    # In another order, so that a state that one answer leaves to the next one shows.
    read.reverse()
    together = _ask(model, [item for item, _ in read]) or ()
    for (item, expected), found in zip(read, together, strict=bool(together)):
        _refuse_if(difference(found, expected), item, library, " among others")
    return Oracle(library=library, items=len(read))


def _has_its_batch(model: Model, item: Tensors) -> bool:
    """Whether the model takes the item's batch size: TFLite's shapes have a batch of 1."""
    pairs = [(spec.shape, item.inputs[spec.name].shape) for spec in model.manifest.inputs]
    return all(shape[:1] in ((-1,), given[:1]) for shape, given in pairs)


def _ask(model: Model, items: Sequence[Item]) -> list[Answer] | None:
    """Answer items as one request; None where the model refuses them in its own words."""
    try:
        return model.predict(items)
    except EdgemlError as error:
        if error.code == "input-invalid":
            return None
        if error.code == "runtime-failed":
            why = " ".join(error.message.split())
            message = f"the converted model can't answer what the original answers: {_shown(items[0])}: {why}"
            raise GateFailed("gate-failed", message, _HINT) from None
        raise


def _inputs(model: Model, item: Item, theirs: LibraryAnswer) -> str:
    """Compare the tensors that both made of a picture, where the library shows its own: it puts channels first."""
    prepared = model.prepare([item]).tensors if theirs.inputs else {}
    for name, data in theirs.inputs.items():
        ours, other = prepared.get(name), tensors.from_data(data)
        if ours is not None and getattr(model.manifest.preprocess, "layout", "") == "NHWC":
            ours = ours.transpose(0, 3, 1, 2)
        if ours is None or ours.shape != other.shape:
            return f"{name} of shape {ours.shape if ours is not None else None}, and of {other.shape}"
        distance = float(np.abs(ours - other).max(initial=0))
        if not distance <= INPUT_MAX:  # NaN is no distance
            return f"{name} with numbers up to {distance:.2f} away from those"
    return ""


def _outputs(model: Model, item: Item, theirs: LibraryAnswer) -> str:
    """Compare the models' outputs, where the library shows its own, at their own scale."""
    found = model.infer(model.prepare([item]).tensors) if theirs.outputs else {}
    for name, data in theirs.outputs.items():
        ours, other = found[name][0], tensors.from_data(data)
        if ours.shape != other.shape:
            return f"{name} of shape {list(ours.shape)}, and of {list(other.shape)}"
        distance, scale = (float(np.abs(it).max(initial=0)) for it in (ours - other, other))
        if not distance <= SCORE_MAX * max(1.0, scale):  # NaN is no distance
            return f"{name} with numbers up to {distance:.4f} away from those"
    return ""


def _refuse_if(difference: str, item: Item, library: str, where: str = "") -> None:
    if difference:
        message = f"the answers are not the original's: {_shown(item)}{where}: {difference} by {library}"
        raise GateFailed("gate-failed", message, _hint(item, library))


def _hint(item: Item, library: str) -> str:
    if not isinstance(item, Tensors):
        return _HINT
    return _MODULE_HINT if library.startswith("torch ") else _ROWS_HINT


def _classes(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    ours, theirs = ({it["label"]: it["score"] for it in answer["labels"]} for answer in (found, expected))
    if ours.keys() != theirs.keys():
        return f"labels {sorted(ours)}, and {sorted(theirs)}"
    worst = max(ours, key=lambda label: _relative(ours[label], theirs[label]))
    if _relative(ours[worst], theirs[worst]) <= SCORE_MAX:
        return ""
    return f"{worst} {ours[worst]:.4f}, and {theirs[worst]:.4f}"


def _token_classes(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    ours, theirs = found["tokens"], expected["tokens"]
    if len(ours) != len(theirs):
        return f"{len(ours)} tokens, and {len(theirs)}"
    for one, other in zip(ours, theirs, strict=True):
        if one["label"] != other["label"] or not abs(one["score"] - other["score"]) <= SCORE_MAX:
            return f"{one['token']!r} {one['label']} {one['score']:.4f}, and {other['label']} {other['score']:.4f}"
    return ""


def _fills(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Compare tokens and texts in their order; tokens of nearly one probability may change places.

    Probabilities are compared at their own size, since each of thousands of tokens has a small one.
    """
    ours, theirs = found["fills"], expected["fills"]
    if len(ours) != len(theirs):
        return f"{len(ours)} tokens, and {len(theirs)}"
    by_token = {it["token"]: it for it in theirs}
    for one, other in zip(ours, theirs, strict=True):
        same = by_token.get(one["token"], {**one, "score": theirs[-1]["score"]})
        is_near = all(abs(one["score"] - it["score"]) <= SCORE_MAX * it["score"] for it in (other, same))
        if not is_near or any(one[name] != same[name] for name in ("token_str", "sequence")):
            return f"{one['sequence']!r} {one['score']:.6f}, and {other['sequence']!r} {other['score']:.6f}"
    return ""


def _span(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    if found["answer"] == expected["answer"] and abs(found["score"] - expected["score"]) <= SCORE_MAX:
        return ""
    return f"{found['answer']!r} {found['score']:.4f}, and {expected['answer']!r} {expected['score']:.4f}"


def _boxes(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Find each box among the library's: boxes of nearly one score may change places."""
    ours, left = found["boxes"], list(expected["boxes"])
    if len(ours) != len(left):
        return f"{len(ours)} boxes, and {len(left)}"
    for one in ours:
        same = next((it for it in left if _is_one_box(one, it)), None)
        if same is None:
            other = left[0]
            return f"{one['label']} {one['score']:.4f} {one['box']}, and {other['label']} {other['score']:.4f}"
        left.remove(same)
    return ""


def _is_one_box(one: Any, other: Any) -> bool:  # noqa: ANN401 -- nested dictionaries
    apart = float(np.abs(detection.edges(one) - detection.edges(other)).max())
    is_near = _relative(one["score"], other["score"]) <= SCORE_MAX and apart <= EDGE_MAX
    return is_near and bool(one["label"] == other["label"])


def _vector(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    ours, theirs = np.asarray(found["embedding"]), np.asarray(expected["embedding"])
    if ours.shape != theirs.shape:
        return f"{ours.size} numbers, and {theirs.size}"
    lengths = float(np.linalg.norm(ours)), float(np.linalg.norm(theirs))
    near = cosine(ours, theirs)
    if near >= COSINE_MIN and _relative(*lengths) <= SCORE_MAX:
        return ""
    return f"a vector of length {lengths[0]:.4f}, and one of {lengths[1]:.4f} at cosine {near:.4f}"


def _text(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Transformers 5 drops the space between a prompt and its continuation, transformers 4 keeps it."""
    return "" if found["text"].strip() == expected["text"].strip() else f"{found['text']!r}, and {expected['text']!r}"


def _tensors(answers: Sequence[LibraryAnswer]) -> Callable[[Any, Mapping[str, Any]], str]:
    """Compare outputs at their own scale: a number is far where it is far beside itself and beside the usual ones."""
    given = [it.answer["outputs"] for it in answers if it.answer is not None]
    usual = {name: _usual([it[name] for it in given]) for name in (given[0] if given else ())}

    def difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
        for name, values in expected["outputs"].items():
            ours, theirs = np.asarray(found["outputs"][name]), np.asarray(values)
            if ours.size == theirs.size == 0:  # nested lists keep no shape of nothing
                continue
            if ours.shape != theirs.shape:
                return f"{name} of shape {list(ours.shape)}, and {list(theirs.shape)}"
            near = np.abs(ours.astype(np.float64) - theirs) <= _bound(theirs, usual[name])
            if name == "label" and "scores" in expected["outputs"]:  # rounding decides on the border
                scores = np.asarray(expected["outputs"]["scores"])
                near |= np.abs(scores) <= _bound(scores, usual["scores"])
            if not near.all():  # NaN is no distance
                at = tuple(np.argwhere(~near)[0])
                return f"{name} {ours[at]:.6g}, and {theirs[at]:.6g}"
        return ""

    return difference


def _usual(given: Sequence[Any]) -> float:
    """Return the usual size of an output's numbers; 0 where no answer has any."""
    return float(np.median([np.abs(values).mean() for values in given if np.size(values)] or [0.0]))


def _bound(values: Array, usual: float) -> Array:
    """The distance that is accepted: none of whole numbers."""
    if values.dtype.kind != "f":
        return np.zeros(values.shape)
    return max(SCORE_MAX, ROUNDINGS_MAX * float(np.finfo(values.dtype).eps)) * np.maximum(usual, np.abs(values))


def _relative(one: float, other: float) -> float:
    """The distance of two numbers: absolute up to 1, relative above."""
    return abs(one - other) / max(1.0, abs(other))


_DIFFERENCES: Final[dict[type, Callable[[Any, Mapping[str, Any]], str]]] = {
    Classes: _classes,
    TokenClasses: _token_classes,
    MaskFill: _fills,
    Span: _span,
    Boxes: _boxes,
    Transcript: _text,
    DecodedTranscript: _text,
    DecodedText: _text,
    Embedding: _vector,
    Generation: _text,
}


def _shown(item: Item) -> str:
    match item:
        case Text(text=text, text_pair=str(pair)):
            return f"{text[:SHOWN_CHARS]!r} with {pair[:SHOWN_CHARS]!r}"
        case Text(text=text) | Prompt(prompt=text) | Question(question=text):
            return repr(text[:SHOWN_CHARS])
        case Image(data=data):
            return f"a picture of {len(data)} bytes"
        case Tensors(inputs=inputs):
            shown = ", ".join(f"{name} {array.tolist()}" for name, array in inputs.items())
            return f"a row {shown[:SHOWN_CHARS]}"
        case Audio(samples=samples, sampling_rate_hz=rate_hz):
            return f"a sound of {len(samples) / rate_hz:.1f} s"
        case _:
            return "an item"
