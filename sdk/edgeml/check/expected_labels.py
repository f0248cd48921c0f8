"""The labels of evaluation rows, looked up among the model's, before a model is converted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from edgeml.check import data
from edgeml.check.data import Label
from edgeml_core import decoding
from edgeml_core.errors import UsageError
from edgeml_core.processing import Boxes, Classes, Postprocess, TokenClasses

#: Labels in one message.
LABELS_SHOWN_MAX: Final = 20
#: Unknown labels in one message.
UNKNOWN_SHOWN_MAX: Final = 5
#: Ends of the names of transformers' classifiers, whose answer is a label.
_HEADS: Final = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForImageClassification",
    "ForAudioClassification",
)


class _Config(msgspec.Struct, frozen=True):
    """The part of config.json that names labels."""

    architectures: tuple[str, ...] = ()
    id2label: dict[str, str] = {}


def find(label: object, labels: Sequence[str]) -> str:
    """Look a label up by name or index.

    Raises:
        UsageError: `data-invalid`, when the model doesn't have it.
    """
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(labels):
        return labels[label]
    if isinstance(label, str) and label in labels:
        return label
    raise UsageError("data-invalid", f"label {label!r} is not one of the model's", hint(labels))


def hint(labels: Sequence[str]) -> str:
    """Name the labels to use."""
    return f"use one of {', '.join(labels[:LABELS_SHOWN_MAX])}"


def check_folder(model: Path, rows: Path) -> None:
    """Check the labels of a file against those in the configuration of a classifier's folder, before it is loaded.

    A folder that can't be read, or has another head, is left to the steps that load it.

    Raises:
        UsageError: `data-invalid`, as for `check`, or when the file is of another kind.
    """
    path = model / "config.json"
    if not path.is_file():  # a pipe would be waited for
        return
    try:
        config = decoding.from_json(path.read_bytes(), _Config)
    except (OSError, msgspec.MsgspecError):
        return
    if config.id2label and any(name.endswith(_HEADS) for name in config.architectures):
        indexes = sorted(config.id2label, key=lambda index: (len(index), index))
        classes = Classes(output="logits", labels=tuple(config.id2label[index] for index in indexes), activation="none")
        check(data.read_labels(rows, classes), classes)


def check(found: Iterable[Label | None], postprocess: Postprocess) -> None:
    """Check that the model has the label of each row. Embeddings take any label, a language model takes none.

    Args:
        found: the label of each row.
        postprocess: has the model's labels.

    Raises:
        UsageError: `data-invalid`, with the unknown labels and their number of rows.
    """
    if not isinstance(postprocess, Classes | TokenClasses | Boxes):
        return
    unknown: dict[str, int] = {}
    count = 0
    for label in found:
        count += 1
        for name in {_name(it) for it in _labels(label) if not _is_known(it, postprocess.labels)}:
            unknown[name] = unknown.get(name, 0) + 1
    if unknown:
        most = sorted(unknown.items(), key=lambda it: (-it[1], it[0]))
        shown = ", ".join(f"{name} in {rows:,} of {count:,} rows" for name, rows in most[:UNKNOWN_SHOWN_MAX])
        more = f", and {len(most) - UNKNOWN_SHOWN_MAX} more" if len(most) > UNKNOWN_SHOWN_MAX else ""
        message = f"the model doesn't have the labels of the rows to evaluate on: {shown}{more}"
        raise UsageError("data-invalid", message, hint(postprocess.labels))


def _labels(label: Label | None) -> Iterator[object]:
    if isinstance(label, list):
        yield from label
    elif isinstance(label, tuple):
        yield from (box.label for box in label)
    else:
        yield label


def _is_known(label: object, labels: Sequence[str]) -> bool:
    try:
        find(label, labels)
    except UsageError:
        return False
    return True


def _name(label: object) -> str:
    return "no label" if label is None else repr(label)
