"""The text of a sound by an encoder and a decoder, as Whisper's: the likeliest token, one after the other.

The encoder runs with the first tokens only. Its keys and values are inputs of all later runs, in which the sound has no
frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from edgeml_core.errors import DeviceError, RejectedError, TransportError, UsageError
from edgeml_core.manifest import TensorSpec
from edgeml_core.processing import INPUT_IDS, POSITIONS, DecodedTranscript
from edgeml_runtime.encode.text import opened
from edgeml_runtime.engines import Session
from edgeml_runtime.postprocess.clean_up import cleaned
from edgeml_runtime.tasks import Sound, TranscriptAnswer, truncated
from edgeml_runtime.tensors import Array

#: The language of a model without tokens of languages.
ENGLISH: Final = "en"


class Transcriber:
    """A decoder's tokenizer, and the meaning of its inputs and outputs.

    Args:
        folder: holds the tokenizer.
        inputs: the manifest's.
        spec: names the tokens, the cache's inputs and its outputs.

    Raises:
        RejectedError: `bundle-format`, when the model has other inputs, or the tokenizer is malformed.
        DeviceError: `store-failed`, when the tokenizer can't be read.
    """

    def __init__(self, folder: Path, inputs: Sequence[TensorSpec], spec: DecodedTranscript) -> None:
        self._inputs = {it.name: it for it in inputs}
        known = {INPUT_IDS, POSITIONS, *spec.past, *spec.cross}
        further = self._inputs.keys() - known
        if len(further) != 1 or known - self._inputs.keys():
            names = ", ".join(self._inputs)
            raise RejectedError("bundle-format", f"a decoded transcript doesn't fill the model's inputs {names}")
        (self._sound,) = further
        self._spec = spec
        self._tokenizer = opened(folder / spec.tokenizer)

    def first(self, sound: Array, language: str | None) -> dict[str, Array]:
        """Make the inputs of one run that reads a sound and gives the logits of the first token of its text.

        Args:
            sound: the tensor of the sound.
            language: of its speech; None takes the model's usual or first one.

        Raises:
            UsageError: `input-invalid`, for a language that the model doesn't know.
        """
        named = self._known(language) or next(iter(self._spec.languages), None)
        return _Reading(self._inputs, self._spec, {self._sound: sound}).tensors(self._beginning(named))

    def transcribe(
        self, sound: Array, language: str | None, about: Sound, session: Session, stopped: Callable[[], bool]
    ) -> TranscriptAnswer:
        """Write the text of a sound.

        Args:
            sound: the tensor of the sound.
            language: of its speech; None takes the model's usual or else the likeliest one.
            about: the length of the sound.
            session: the loaded model.
            stopped: whether the client has left; checked before each token.

        Raises:
            UsageError: `input-invalid`, for a language that the model doesn't know.
            DeviceError: `runtime-failed`.
            TransportError: `client-left`.
        """
        spec, named = self._spec, self._known(language)
        reading = _Reading(self._inputs, spec, {self._sound: sound})
        unread = self._beginning(named)
        room = spec.max_tokens - len(unread)
        if spec.languages and named is None:
            logits = reading.read(spec.start, session)
            named = max(spec.languages, key=lambda code: float(logits[spec.languages[code]]))
            unread = [spec.languages[named], *spec.task]
            room -= 1
        tokens: list[int] = []
        while len(tokens) < room:
            if stopped():
                raise TransportError("client-left", "the client left before the text was complete")
            logits = reading.read(unread, session)
            logits[[*spec.suppressed, *(() if tokens else spec.suppressed_first)]] = -np.inf
            unread = [int(logits.argmax())]
            if unread[0] in spec.stop_ids:
                break
            tokens += unread
        answer: TranscriptAnswer = {"text": self._text(tokens)}
        if named is not None and spec.languages:
            answer["language"] = named
        if cut := truncated(about):
            answer["truncated"] = cut
        return answer

    def _known(self, language: str | None) -> str | None:
        """Return the language to write in; None where the sound decides."""
        if language is None or language in (self._spec.languages or (ENGLISH,)):
            return language or self._spec.language
        known = ", ".join(self._spec.languages or (ENGLISH,))
        raise UsageError("input-invalid", f"the model doesn't know the language {language!r}", f"send one of {known}")

    def _beginning(self, language: str | None) -> list[int]:
        """The decoder's first tokens."""
        named = [self._spec.languages[language]] if language in self._spec.languages else []
        return [*self._spec.start, *named, *self._spec.task]

    def _text(self, tokens: Sequence[int]) -> str:
        words = [token for token in tokens if token < self._spec.times_from]
        text = self._tokenizer.decode(words, skip_special_tokens=True)
        return cleaned(text) if self._spec.clean_up else text


class _Reading:
    """The tokens that the decoder has read for one sound, with their keys and values."""

    def __init__(self, inputs: dict[str, TensorSpec], spec: DecodedTranscript, sound: dict[str, Array]) -> None:
        self._inputs, self._spec = inputs, spec
        self._count = 0
        empty = {name: self._empty(name) for name in (*spec.past, *spec.cross)}
        self._kept: dict[str, Array] = sound | empty
        self._sound = next(iter(sound))

    def _empty(self, name: str) -> Array:
        _, heads, _, size = self._inputs[name].shape
        return np.zeros((1, heads, 0, size), dtype=self._inputs[name].dtype)

    def tensors(self, ids: Sequence[int]) -> dict[str, Array]:
        """Make the inputs of a run that reads further tokens."""
        positions = range(self._count, self._count + len(ids))
        counted = {INPUT_IDS: [[*ids]], POSITIONS: [[*positions]]}
        return {name: np.array(it, dtype=self._inputs[name].dtype) for name, it in counted.items()} | self._kept

    def read(self, ids: Sequence[int], session: Session) -> Array:
        """Read further tokens; return the logits after the last one, float [vocabulary]."""
        outputs, spec = session.run(self.tensors(ids)), self._spec
        pairs = list(zip(spec.past, spec.present, strict=True))
        if not self._count:
            pairs += zip(spec.cross, spec.cross_present, strict=True)
            self._kept[self._sound] = self._kept[self._sound][..., :0]
        self._kept |= {name: outputs[output] for name, output in pairs}
        self._count += len(ids)
        logits = np.array(outputs[spec.output][0, -1], dtype=np.float32)
        if np.isnan(logits).any():
            raise DeviceError("runtime-failed", f"the model's output {spec.output!r} has NaN", "try other input")
        return logits
