"""The text of a sound by an encoder and a decoder, as Whisper's, in the language of the sound or of the request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from edgeml_core.errors import UsageError
from edgeml_core.manifest import TensorSpec
from edgeml_core.processing import DecodedTranscript
from edgeml_runtime.encode.text import opened
from edgeml_runtime.engines import Session
from edgeml_runtime.generate.encoder_decoder import Reading, encoder_input
from edgeml_runtime.postprocess.clean_up import cleaned
from edgeml_runtime.tasks import Sound, WrittenAnswer, truncated
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
        encoder_input(inputs, spec)
        self._inputs, self._spec = inputs, spec
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
        return Reading(self._inputs, self._spec, sound).tensors(self._beginning(named))

    def transcribe(
        self, sound: Array, language: str | None, about: Sound, session: Session, stopped: Callable[[], bool]
    ) -> WrittenAnswer:
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
        reading = Reading(self._inputs, spec, sound)
        unread = self._beginning(named)
        if spec.languages and named is None:
            logits = reading.read(spec.start, session)
            named = max(spec.languages, key=lambda code: float(logits[spec.languages[code]]))
            unread = [spec.languages[named], *spec.task]
        tokens = reading.write(unread, session, stopped)
        answer: WrittenAnswer = {"text": self._text(tokens)}
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
