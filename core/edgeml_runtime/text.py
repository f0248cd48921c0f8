"""The adapter to `tokenizers`: texts to the tensors that a text model asks for, cut and padded as transformers does.

Too long a text is cut at `max_length`, as transformers' classification and embedding pipelines cut it; of a question
and its context, the context is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from tokenizers import Encoding, Tokenizer

from edgeml_core.errors import DeviceError, RejectedError, UsageError
from edgeml_core.manifest import QuestionInput, TensorSpec, TextInput
from edgeml_runtime.tasks import Question, Tokens
from edgeml_runtime.tensors import Array

#: What a text model may ask for, by input name, and the Encoding's attribute that holds it.
_FIELDS: Final = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


class Encoder:
    """A tokenizer set up for one model.

    Args:
        path: the `tokenizer.json`.
        text: the manifest's cutting and padding.
        inputs: the model's inputs; the tensors are made for these names, in these data types.

    Raises:
        RejectedError: `bundle-format`, when the tokenizer is malformed or the model asks for what no tokenizer gives.
        DeviceError: `store-failed`, when the file can't be read.
    """

    def __init__(self, path: Path, text: TextInput, inputs: Sequence[TensorSpec]) -> None:
        if unknown := [spec.name for spec in inputs if spec.name not in _FIELDS]:
            raise RejectedError("bundle-format", f"no tokenizer gives a text model's inputs {', '.join(unknown)}")
        self._text = text
        self._inputs = tuple(inputs)
        self._pad = {"input_ids": text.pad_id, "attention_mask": 0, "token_type_ids": 0}
        self._tokenizer = opened(path)
        longest = min(text.max_length, max(text.pad_to, default=text.max_length))
        strategy = "only_second" if isinstance(text, QuestionInput) else "longest_first"
        self._tokenizer.enable_truncation(longest, strategy=strategy)

    def encode(self, texts: Sequence[str]) -> tuple[dict[str, Array], list[Tokens]]:
        """The model's inputs for a batch of texts, each of shape [texts, length], and every text's own tokens.

        Raises:
            UsageError: `input-invalid`, when a text is not Unicode (it holds half a surrogate pair).
        """
        try:
            encodings = self._tokenizer.encode_batch(list(texts))
        except TypeError as error:
            raise UsageError("input-invalid", f"a text can't be read: {error}", "send valid Unicode") from error
        return self._tensors(encodings), [_tokens(encoding) for encoding in encodings]

    def encode_questions(self, questions: Sequence[Question]) -> tuple[dict[str, Array], list[Tokens]]:
        """As `encode`, for questions with their contexts.

        Raises:
            UsageError: `input-invalid`, when a text is not Unicode, or a question leaves no room for its context.
        """
        try:
            encodings = self._tokenizer.encode_batch([(it.question, it.context) for it in questions])
        except Exception as error:  # tokenizers raises bare Exception for a question that is too long
            hint = "send valid Unicode, and a question of a sentence or two"
            raise UsageError("input-invalid", f"a question can't be read: {error}", hint) from error
        tokens = [_pair_tokens(encoding, it.context) for encoding, it in zip(encodings, questions, strict=True)]
        if not all(any(one.words) for one in tokens):
            raise UsageError("input-invalid", "a context is empty, or there is no room for it", "send a longer context")
        return self._tensors(encodings), tokens

    def _tensors(self, encodings: Sequence[Encoding]) -> dict[str, Array]:
        longest = max(len(encoding.ids) for encoding in encodings)
        length = min((bucket for bucket in self._text.pad_to if bucket >= longest), default=longest)
        return {spec.name: self._tensor(spec, encodings, length) for spec in self._inputs}

    def _tensor(self, spec: TensorSpec, encodings: Sequence[Encoding], length: int) -> Array:
        tensor = np.full((len(encodings), length), self._pad[spec.name], dtype=spec.dtype)
        for row, encoding in zip(tensor, encodings, strict=True):
            values = getattr(encoding, _FIELDS[spec.name])
            row[: len(values)] = values
        return tensor


def opened(path: Path) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`, which neither pads nor cuts.

    Raises:
        RejectedError: `bundle-format`, when it is malformed. DeviceError: `store-failed`, when it can't be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DeviceError("store-failed", f"the tokenizer can't be read: {error}", "fetch the bundle again") from error
    try:
        tokenizer = Tokenizer.from_buffer(data)
        tokenizer.no_padding()
        tokenizer.no_truncation()
    except Exception as error:  # tokenizers raises bare Exception for a malformed file
        raise RejectedError("bundle-format", f"the tokenizer is malformed: {error}") from error
    return tokenizer


def _tokens(encoding: Encoding) -> Tokens:
    return Tokens(
        texts=tuple(encoding.tokens),
        spans=tuple(encoding.offsets),
        special=tuple(bool(flag) for flag in encoding.special_tokens_mask),
        unread=sum(rest.special_tokens_mask.count(0) for rest in encoding.overflowing),
    )


def _pair_tokens(encoding: Encoding, context: str) -> Tokens:
    words, sequences = encoding.word_ids, encoding.sequence_ids
    spans = (
        _word(encoding, index, word) if sequence == 1 else None
        for index, (word, sequence) in enumerate(zip(words, sequences, strict=True))
    )
    return msgspec.structs.replace(_tokens(encoding), context=context, words=tuple(spans))


def _word(encoding: Encoding, index: int, word: int | None) -> tuple[int, int]:
    """The span of the word around a token of the context; the token's own, where the tokenizer knows no words."""
    span = None if word is None else encoding.word_to_chars(word, sequence_index=1)
    return span or encoding.offsets[index]  # type: ignore[no-any-return] # tokenizers has no types
