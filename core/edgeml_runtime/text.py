"""The adapter to `tokenizers`: texts to the tensors that a text model asks for, cut and padded as transformers does.

Too long a text is cut at `max_length`, as transformers' classification and embedding pipelines cut it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from tokenizers import Encoding, Tokenizer

from edgeml_core.errors import DeviceError, RejectedError, UsageError
from edgeml_core.manifest import TensorSpec, TextInput
from edgeml_runtime.tasks import Tokens
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
        self._tokenizer = _tokenizer(path, min(text.max_length, max(text.pad_to, default=text.max_length)))

    def encode(self, texts: Sequence[str]) -> tuple[dict[str, Array], list[Tokens]]:
        """The model's inputs for a batch of texts, each of shape [texts, length], and every text's own tokens.

        Raises:
            UsageError: `input-invalid`, when a text is not Unicode (it holds half a surrogate pair).
        """
        try:
            encodings = self._tokenizer.encode_batch(list(texts))
        except TypeError as error:
            raise UsageError("input-invalid", f"a text can't be read: {error}", "send valid Unicode") from error
        longest = max(len(encoding.ids) for encoding in encodings)
        length = min((bucket for bucket in self._text.pad_to if bucket >= longest), default=longest)
        tensors = {spec.name: self._tensor(spec, encodings, length) for spec in self._inputs}
        return tensors, [_tokens(encoding) for encoding in encodings]

    def _tensor(self, spec: TensorSpec, encodings: Sequence[Encoding], length: int) -> Array:
        tensor = np.full((len(encodings), length), self._pad[spec.name], dtype=spec.dtype)
        for row, encoding in zip(tensor, encodings, strict=True):
            values = getattr(encoding, _FIELDS[spec.name])
            row[: len(values)] = values
        return tensor


def _tokenizer(path: Path, max_length: int) -> Tokenizer:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DeviceError("store-failed", f"the tokenizer can't be read: {error}", "fetch the bundle again") from error
    try:
        tokenizer = Tokenizer.from_buffer(data)
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
    except Exception as error:  # tokenizers raises bare Exception for a malformed file
        raise RejectedError("bundle-format", f"the tokenizer is malformed: {error}") from error
    return tokenizer


def _tokens(encoding: Encoding) -> Tokens:
    return Tokens(
        texts=tuple(encoding.tokens),
        spans=tuple(encoding.offsets),
        special=tuple(bool(flag) for flag in encoding.special_tokens_mask),
    )
