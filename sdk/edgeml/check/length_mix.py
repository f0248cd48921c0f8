"""The inputs that candidates are compared on, and the share of each: lengths as they are expected in service.

With evaluation or calibration rows these are the rows at five quantiles of length, with equal shares. Without rows a
text model gets a stated mix (`MIX`) of short, middle and full length, and any other model the checks' own inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from edgeml.check.candidate import Candidate
from edgeml.check.checks import Checks
from edgeml.check.inputs import CHARS_PER_TOKEN, QUESTIONS, ROWS_TAKEN_MAX
from edgeml.check.sample_texts import SENTENCES
from edgeml_core.processing import MaskFill, QuestionInput, TextInput
from edgeml_runtime.inputs import preparer
from edgeml_runtime.tasks import Item, Question, Text
from edgeml_runtime.tensors import Array

#: Fractions of the model's length, each with its share of the requests. Policy: most requests are a sentence or two,
#: some a paragraph, and few as long as the model takes.
MIX: Final = ((1 / 16, 0.6), (1 / 4, 0.3), (1.0, 0.1))
#: Quantiles of the rows' lengths; each stands for a fifth of the rows.
QUANTILES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
#: Tokens; a question with its marks takes as many, and a window needs room for its context.
_LENGTH_MIN: Final = 16
_TEXT: Final = " ".join(SENTENCES)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One input of the mix: its share, and its tensors as each candidate takes them."""

    weight: float
    tensors: tuple[Mapping[str, Array], ...]


def samples(checks: Checks, candidates: Sequence[Candidate]) -> list[Sample]:
    """The mix for candidates of one model; inputs of one shape are merged, since they take the same time.

    Args:
        checks: holds the rows and the checks' own inputs.
        candidates: in the order of each sample's tensors.
    """
    rows = (checks.evaluation.items or checks.calibration.items)[:ROWS_TAKEN_MAX]
    is_text = isinstance(checks.source.signature.preprocess, TextInput)
    if is_text and not rows:
        return _merged(_of_lengths(candidates))
    return _merged(_at_quantiles(candidates, rows or list(checks.inputs.items)))


def _at_quantiles(candidates: Sequence[Candidate], items: Sequence[Item]) -> list[Sample]:
    prepares = [preparer(it.model.folder, it.manifest) for it in candidates]
    prepared = [tuple(prepare([item]).tensors for prepare in prepares) for item in items]
    ordered = sorted(prepared, key=lambda them: [_elements(tensors) for tensors in them])
    return [Sample(weight=1 / len(QUANTILES), tensors=ordered[int(quantile * len(ordered))]) for quantile in QUANTILES]


def _of_lengths(candidates: Sequence[Candidate]) -> list[Sample]:
    """Make texts of the mix's lengths in tokens, up to the length that all candidates take."""
    longest = min(it.manifest.preprocess.max_length for it in candidates)  # type: ignore[union-attr] # text models
    return [
        Sample(
            weight=weight, tensors=tuple(_of_length(it, max(_LENGTH_MIN, int(fraction * longest))) for it in candidates)
        )
        for fraction, weight in MIX
    ]


def _of_length(candidate: Candidate, length: int) -> Mapping[str, Array]:
    text = candidate.manifest.preprocess
    assert isinstance(text, TextInput)  # noqa: S101 -- only text models come here
    cut = msgspec.structs.replace(text, max_length=min(length, text.max_length))
    prepare = preparer(candidate.model.folder, msgspec.structs.replace(candidate.manifest, preprocess=cut))
    chars = length * CHARS_PER_TOKEN
    written = (_TEXT * (chars // len(_TEXT) + 1))[:chars]
    if isinstance(fills := candidate.manifest.postprocess, MaskFill):
        written = f"{fills.mask} {written}"
    return prepare([Question(QUESTIONS[0], written) if isinstance(text, QuestionInput) else Text(written)]).tensors


def _merged(found: Sequence[Sample]) -> list[Sample]:
    merged: dict[tuple[object, ...], Sample] = {}
    for it in found:
        key = tuple(tuple(sorted((name, array.shape) for name, array in tensors.items())) for tensors in it.tensors)
        weight = it.weight + (merged[key].weight if key in merged else 0.0)
        merged[key] = Sample(weight=weight, tensors=it.tensors)
    return list(merged.values())


def _elements(tensors: Mapping[str, Array]) -> int:
    return sum(array.size for array in tensors.values())
