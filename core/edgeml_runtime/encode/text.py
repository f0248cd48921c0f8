"""The adapter to `tokenizers`: texts to a model's tensors, cut and padded as transformers does.

A text beyond `max_length` is cut, as transformers' classification and embedding pipelines cut it. Its `Tokens` count
the missing ones. A question's context is not cut but read in windows that overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from tokenizers import Encoding, Tokenizer

from edgeml_core.errors import DeviceError, RejectedError, UsageError
from edgeml_core.manifest import TensorSpec
from edgeml_core.processing import MaskFill, QuestionInput, TextInput
from edgeml_runtime.encode.mask import masked_tokens
from edgeml_runtime.tasks import Masked, Question, Text, Tokens
from edgeml_runtime.tensors import Array

#: The inputs that a text model may have, each with the Encoding's attribute that fills it.
_FIELDS: Final = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}

#: Tokens that two neighbouring windows of a context share at most.
#: Source: transformers 4.57 `QuestionAnsweringPipeline`, its default.
OVERLAP_MAX: Final = 128
#: Windows of one context; with 384 tokens each they hold twice the tokens of the longest context allowed.
WINDOWS_MAX: Final = 256


class Window(NamedTuple):
    """A question with a part of its context, as one run of the model takes it."""

    encoding: Encoding
    tokens: Tokens


class Encoder:
    """A tokenizer set up for one model.

    Args:
        path: the `tokenizer.json`.
        text: the manifest's cutting and padding.
        inputs: the model's inputs; they give the tensors' names and data types.

    Raises:
        RejectedError: `bundle-format`, when the tokenizer is malformed, or doesn't fill an input of the model.
        DeviceError: `store-failed`, when the file can't be read.
    """

    def __init__(self, path: Path, text: TextInput, inputs: Sequence[TensorSpec]) -> None:
        if unknown := [spec.name for spec in inputs if spec.name not in _FIELDS]:
            raise RejectedError("bundle-format", f"no tokenizer gives a text model's inputs {', '.join(unknown)}")
        self._text = text
        self._inputs = tuple(inputs)
        self._pad = {"input_ids": text.pad_id, "attention_mask": 0, "token_type_ids": 0}
        self._tokenizer = opened(path)
        self._longest = min(text.max_length, max(text.pad_to, default=text.max_length))
        if not isinstance(text, QuestionInput):
            self._cut()

    def encode(self, texts: Sequence[Text]) -> tuple[dict[str, Array], list[Tokens]]:
        """Encode a batch of texts and pairs. Of a pair that is too long, the longer text is cut first.

        Returns:
            The model's inputs by name, each of shape [texts, length], and every text's own tokens.

        Raises:
            UsageError: `input-invalid`, when a text is not Unicode (it holds half a surrogate pair).
        """
        encodings, about = self._encoded(texts)
        return self._tensors(encodings), about

    def masked(self, texts: Sequence[Text], spec: MaskFill) -> tuple[dict[str, Array], list[Masked]]:
        """Encode a batch of texts that have one mask each; see `encode`.

        Raises:
            UsageError: `input-invalid`, also when a text has no mask within the model's length, or several.
            RejectedError: `bundle-format`, when the tokenizer has no such token.
        """
        encodings, about = self._encoded(texts)
        found = [
            masked_tokens(self._tokenizer, spec, text, encoding.ids, tokens)
            for text, encoding, tokens in zip(texts, encodings, about, strict=True)
        ]
        return self._tensors(encodings), found

    def _encoded(self, texts: Sequence[Text]) -> tuple[list[Encoding], list[Tokens]]:
        try:
            encodings = self._tokenizer.encode_batch([self._whole(text) for text in texts])
            about = [self._cut_tokens(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]
        except TypeError as error:
            raise UsageError("input-invalid", f"a text can't be read: {error}", "send valid Unicode") from error
        return encodings, about

    def _whole(self, text: Text) -> str | tuple[str, str]:
        first = f"{self._text.prompt or ''}{text.text}"
        return first if text.text_pair is None else (first, text.text_pair)

    def _cut_tokens(self, text: Text, encoding: Encoding) -> Tokens:
        if text.text_pair is None or not encoding.overflowing:
            unread = sum(rest.special_tokens_mask.count(0) for rest in encoding.overflowing)
        else:  # the parts of a pair that overflow repeat each other
            self._tokenizer.no_truncation()
            (whole,) = self._tokenizer.encode_batch([self._whole(text)])
            self._cut()
            unread = len(whole.ids) - len(encoding.ids)
        return msgspec.structs.replace(_tokens(encoding), unread=unread)

    def _cut(self, **how: Any) -> None:  # noqa: ANN401 -- tokenizers has no types
        self._tokenizer.enable_truncation(self._longest, direction=self._text.cut or "right", **how)

    def windows(self, question: Question) -> list[Window]:
        """Split a context into windows, each with the question; one window where the model's length holds both.

        Raises:
            UsageError: `input-invalid`, when a text is not Unicode or the context is empty; `prompt-too-long`, when a
                question leaves too little room for its context.
        """
        encodings = self._pairs(question)
        windows = [Window(it, _pair_tokens(it, question.context)) for it in encodings]
        if not all(any(window.tokens.words) for window in windows):
            raise UsageError("input-invalid", "the context is empty", "send the text that holds the answer")
        return windows

    def joined(self, windows: Sequence[Window]) -> dict[str, Array]:
        """Make the model's inputs for windows in one run."""
        return self._tensors([window.encoding for window in windows])

    def _pairs(self, question: Question) -> list[Encoding]:
        whole = self._pair(question)
        context = whole.sequence_ids.count(1)
        room = self._longest - (len(whole.ids) - context)
        if context <= room or not context:
            return [whole]
        overlap = self._overlap(room, context)
        self._cut(stride=overlap, strategy="only_second")
        try:
            first = self._pair(question)
        finally:
            self._tokenizer.no_truncation()
        return [first, *first.overflowing]

    def _pair(self, question: Question) -> Encoding:
        try:
            return self._tokenizer.encode(question.question, question.context)
        except TypeError as error:
            raise UsageError("input-invalid", f"a question can't be read: {error}", "send valid Unicode") from error

    def _overlap(self, room: int, context: int) -> int:
        """Choose the overlap of neighbouring windows: half of a window where a long question leaves little room."""
        for overlap in (min(self._longest // 2, OVERLAP_MAX), max(room, 0) // 2):
            if overlap < room and (context - room) <= (WINDOWS_MAX - 1) * (room - overlap):
                return overlap
        raise UsageError(
            "prompt-too-long",
            f"the context has {context} tokens, and the question leaves {max(room, 0)} of {self._longest} at a time",
            f"send a shorter question or context: at most {WINDOWS_MAX} parts of it are read",
        )

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
    """Load the tokenizer in a `tokenizer.json`, without padding and cutting.

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
    )


def _pair_tokens(encoding: Encoding, context: str) -> Tokens:
    words, sequences = encoding.word_ids, encoding.sequence_ids
    spans = (
        _word(encoding, index, word) if sequence == 1 else None
        for index, (word, sequence) in enumerate(zip(words, sequences, strict=True))
    )
    return msgspec.structs.replace(_tokens(encoding), context=context, words=tuple(spans))


def _word(encoding: Encoding, index: int, word: int | None) -> tuple[int, int]:
    """Find the span of the word around a token of the context; the token's own where the tokenizer has no words."""
    span = None if word is None else encoding.word_to_chars(word, sequence_index=1)
    return span or encoding.offsets[index]  # type: ignore[no-any-return] # tokenizers has no types
