"""The runs of an encoder with a decoder that write one text: the likeliest token, one after the other.

The encoder runs with the first tokens only. Its keys and values are inputs of all later runs, in which the text or the
sound is empty. `transcript` and `decoded_text` know what begins a text, and which tokens may follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgeml_core.errors import DeviceError, RejectedError, TransportError
from edgeml_core.manifest import TensorSpec
from edgeml_core.processing import DECODER_IDS, POSITIONS, Decoded
from edgeml_runtime.engines import Session
from edgeml_runtime.tensors import Array


def encoder_input(inputs: Sequence[TensorSpec], spec: Decoded) -> TensorSpec:
    """Return the input that the encoder reads: the tokens and the caches fill all others.

    Raises:
        RejectedError: `bundle-format`, when the model has other inputs.
    """
    known = {DECODER_IDS, POSITIONS, *spec.past, *spec.cross}
    further = [it for it in inputs if it.name not in known]
    if len(further) != 1 or known - {it.name for it in inputs}:
        names = ", ".join(it.name for it in inputs)
        raise RejectedError("bundle-format", f"an encoder with a decoder doesn't fill the model's inputs {names}")
    return further[0]


class Reading:
    """The tokens that the decoder has read for one text, with their keys and values.

    Args:
        inputs: the manifest's.
        spec: names the caches and the logits.
        read: the encoder's input, its last axis the frames or tokens.
    """

    def __init__(self, inputs: Sequence[TensorSpec], spec: Decoded, read: Array) -> None:
        self._inputs, self._spec = {it.name: it for it in inputs}, spec
        self._count = 0
        self._read = encoder_input(inputs, spec).name
        empty = {name: self._empty(name) for name in (*spec.past, *spec.cross)}
        self._kept: dict[str, Array] = {self._read: read} | empty

    def _empty(self, name: str) -> Array:
        _, heads, _, size = self._inputs[name].shape
        return np.zeros((1, heads, 0, size), dtype=self._inputs[name].dtype)

    def tensors(self, ids: Sequence[int]) -> dict[str, Array]:
        """Make the inputs of a run that reads further tokens."""
        positions = range(self._count, self._count + len(ids))
        counted = {DECODER_IDS: [[*ids]], POSITIONS: [[*positions]]}
        return {name: np.array(it, dtype=self._inputs[name].dtype) for name, it in counted.items()} | self._kept

    def read(self, ids: Sequence[int], session: Session) -> Array:
        """Read further tokens; return the logits after the last one, float [vocabulary]."""
        outputs, spec = session.run(self.tensors(ids)), self._spec
        pairs = list(zip(spec.past, spec.present, strict=True))
        if not self._count:
            pairs += zip(spec.cross, spec.cross_present, strict=True)
            self._kept[self._read] = self._kept[self._read][..., :0]
        self._kept |= {name: outputs[output] for name, output in pairs}
        self._count += len(ids)
        logits = np.array(outputs[spec.output][0, -1], dtype=np.float32)
        if np.isnan(logits).any():
            raise DeviceError("runtime-failed", f"the model's output {spec.output!r} has NaN", "try other input")
        return logits

    def write(
        self,
        beginning: Sequence[int],
        session: Session,
        stopped: Callable[[], bool],
        forbid: Callable[[Array, Sequence[int]], object] = lambda *_: None,
    ) -> list[int]:
        """Write until a stop, or until the decoder has no room.

        Args:
            beginning: the tokens that the decoder hasn't read yet.
            session: the loaded model.
            stopped: whether the client has left; checked before each token.
            forbid: gets the logits of the next token, to change them, and the tokens written.

        Returns:
            The tokens behind the beginning, the stop included: a tokenizer leaves it out where it is no text.

        Raises:
            DeviceError: `runtime-failed`.
            TransportError: `client-left`.
        """
        spec, unread, tokens = self._spec, list(beginning), list[int]()
        room = spec.max_tokens - self._count - len(unread)
        while len(tokens) < room:
            if stopped():
                raise TransportError("client-left", "the client left before the text was complete")
            logits = self.read(unread, session)
            forbid(logits, tokens)
            logits[[*spec.suppressed, *(() if tokens else spec.suppressed_first)]] = -np.inf
            unread = [int(logits.argmax())]
            tokens += unread
            if unread[0] in spec.stop_ids:
                break
        return tokens
