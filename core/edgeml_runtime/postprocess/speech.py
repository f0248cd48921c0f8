"""The text of a sound, from the logits of a model with connectionist temporal classification (CTC).

The best path is decoded: the likeliest token of each frame, without a language model. This module also counts the
words in which two texts differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from edgeml_core.processing import Transcript
from edgeml_runtime.postprocess.classification import check_labels, softmax
from edgeml_runtime.postprocess.clean_up import cleaned
from edgeml_runtime.tasks import Row, WrittenAnswer, with_truncation


def transcript(row: Row, spec: Transcript) -> WrittenAnswer:
    """Write the text of a sound.

    Args:
        row: `spec.output` is float [frames, tokens].
        spec: names the output, the tokens and the rules of the tokenizer.

    Raises:
        RejectedError: `bundle-format`, when the output has another shape.

    Source: transformers 4.57 `Wav2Vec2CTCTokenizer` and `AutomaticSpeechRecognitionPipeline`, held equal by a test.
    """
    best = check_labels(row.outputs[spec.output], len(spec.tokens), dimensions=2).argmax(axis=1)
    frames = (spec.tokens[token] for token in best.tolist())
    found = (token for token, _ in groupby(frames) if token != spec.blank)
    text = "".join(spec.space if token == spec.delimiter else token for token in found).strip()
    text = text.lower() if spec.lowercase else text
    answer: WrittenAnswer = {"text": cleaned(text) if spec.clean_up else text}
    return with_truncation(answer, row)


def certainty(row: Row, spec: Transcript) -> float:
    """Compute the mean probability of the frames' likeliest tokens; 1 of no frames. See `transcript`."""
    scores = softmax(check_labels(row.outputs[spec.output], len(spec.tokens), dimensions=2)).max(axis=1)
    return float(scores.mean()) if scores.size else 1.0


def word_errors(found: Sequence[str], expected: Sequence[str]) -> int:
    """Count the words to insert, delete or replace that make one text of another: Levenshtein's distance."""
    before = list(range(len(expected) + 1))
    for number, word in enumerate(found, 1):
        row = [number]
        for at, other in enumerate(expected):
            row.append(min(before[at + 1] + 1, row[-1] + 1, before[at] + (word != other)))
        before = row
    return before[-1]
