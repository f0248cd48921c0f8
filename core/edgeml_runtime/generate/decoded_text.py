"""A text made of another one by an encoder and a decoder: its translation, its summary, its answer.

A text beyond the encoder's length is cut, as for classifiers, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from edgeml_core.errors import UsageError
from edgeml_core.manifest import TensorSpec
from edgeml_core.processing import DecodedText, TextInput
from edgeml_runtime.encode.text import Encoder, opened
from edgeml_runtime.engines import Session
from edgeml_runtime.generate.encoder_decoder import Reading, encoder_input
from edgeml_runtime.tasks import Text, Tokens, WrittenAnswer, truncated
from edgeml_runtime.tensors import Array


class Rewriter:
    """The tokenizers of both sides, and the meaning of the model's inputs and outputs.

    Args:
        folder: holds the tokenizers.
        text: of the encoder.
        inputs: the manifest's.
        spec: of the decoder.

    Raises:
        RejectedError: `bundle-format`, when the model has other inputs, or a tokenizer is malformed.
        DeviceError: `store-failed`, when a tokenizer can't be read.
    """

    def __init__(self, folder: Path, text: TextInput, inputs: Sequence[TensorSpec], spec: DecodedText) -> None:
        self._inputs, self._spec = inputs, spec
        self._read = encoder_input(inputs, spec)
        self._encoder = Encoder(folder / text.tokenizer, text, (self._read,))
        self._tokenizer = opened(folder / spec.tokenizer)

    def encode(self, text: Text) -> tuple[Array, Tokens]:
        """Encode a text.

        Returns:
            Its ids, [1, tokens], and what they stand for.

        Raises:
            UsageError: `input-invalid`, when the text is not Unicode or has no tokens.
        """
        tensors, (about,) = self._encoder.encode([text])
        ids = tensors[self._read.name]
        if not ids.size:
            raise UsageError("input-invalid", "the text has no tokens", "send words")
        return ids, about

    def first(self, ids: Array) -> dict[str, Array]:
        """Make the inputs of one run that reads a text and gives the logits of the first token of its answer."""
        return Reading(self._inputs, self._spec, ids).tensors(self._spec.start)

    def rewrite(self, ids: Array, about: Tokens, session: Session, stopped: Callable[[], bool]) -> WrittenAnswer:
        """Write the text that the model makes of another one.

        Args:
            ids: from `encode`.
            about: from `encode`.
            session: the loaded model.
            stopped: whether the client has left; checked before each token.

        Raises:
            DeviceError: `runtime-failed`.
            TransportError: `client-left`.
        """
        start, forbid = self._spec.start, partial(self._forbid, ids[0].tolist())
        tokens = Reading(self._inputs, self._spec, ids).write(start, session, stopped, forbid)
        answer: WrittenAnswer = {"text": self._tokenizer.decode([*start, *tokens], skip_special_tokens=True)}
        if cut := truncated(about):
            answer["truncated"] = cut
        return answer

    def _forbid(self, read: Sequence[int], logits: Array, tokens: Sequence[int]) -> None:
        """Change the logits as transformers does, in its order.

        Source: transformers 4.57 `RepetitionPenaltyLogitsProcessor`, `NoRepeatNGramLogitsProcessor`,
        `EncoderNoRepeatNGramLogitsProcessor` and `MinLengthLogitsProcessor`, held equal by the oracle.
        """
        spec, written = self._spec, [*self._spec.start, *tokens]
        if spec.repetition_penalty != 1:
            given, penalty = logits[written], np.float32(spec.repetition_penalty)
            logits[written] = np.where(given < 0, given * penalty, given / penalty)
        logits[[*_repeats(written, written, spec.no_repeat), *_repeats(written, read, spec.no_repeat_read)]] = -np.inf
        if len(written) < spec.min_tokens:
            logits[[*spec.stop_ids]] = -np.inf


def _repeats(tokens: Sequence[int], among: Sequence[int], length: int) -> Iterator[int]:
    """Yield tokens that would end a sequence of this length that stands among others; none for a length of 0."""
    last = tokens[len(tokens) - length + 1 :]
    for at in range(len(among) - length + 1) if length else ():
        if among[at : at + length - 1] == last:
            yield among[at + length - 1]
