"""A language model asked token by token: a prompt becomes tensors, and the model's answer to them the next ones.

Attention's keys and values of earlier tokens go from each run into the next. One prompt at a time. A passage that is
there already takes one run, which says how likely each of its tokens was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from edgeml_core.errors import RejectedError, UsageError
from edgeml_core.manifest import Generation, Manifest, PromptInput, TensorSpec
from edgeml_runtime.tasks import Infer, LikelihoodAnswer, Passage, Prompt, TextAnswer, softmax
from edgeml_runtime.tensors import Array
from edgeml_runtime.text import opened

_IDS: Final = "input_ids"
_MASK: Final = "attention_mask"
_POSITIONS: Final = "position_ids"


class Writer:
    """A tokenizer and what a model's inputs and outputs mean.

    Raises:
        RejectedError: `bundle-format`, when the model asks for what is not known, or the tokenizer is malformed.
        DeviceError: `store-failed`, when the tokenizer can't be read.
    """

    def __init__(self, folder: Path, prompt: PromptInput, manifest: Manifest) -> None:
        if not isinstance(manifest.postprocess, Generation):
            raise RejectedError("bundle-format", "a prompt is asked for, but no text is generated")
        self._spec = manifest.postprocess
        self.output: Final = self._spec.output
        known = {_IDS, _MASK, _POSITIONS, *self._spec.past}
        if unknown := [spec.name for spec in manifest.inputs if spec.name not in known]:
            raise RejectedError("bundle-format", f"no prompt gives a model's inputs {', '.join(unknown)}")
        self._max_length = prompt.max_length
        self._inputs: dict[str, TensorSpec] = {spec.name: spec for spec in manifest.inputs}
        self._tokenizer = opened(folder / prompt.tokenizer)

    def first(self, prompt: Prompt) -> dict[str, Array]:
        """The tensors of the first run: the whole prompt, and nothing before it.

        Raises:
            UsageError: `input-invalid`, when the prompt is empty, too long or not Unicode.
        """
        ids = self._ids(prompt.prompt)
        if not 1 <= len(ids) < self._max_length:
            hint = f"send 1 to {self._max_length - 1} tokens"
            raise UsageError("input-invalid", f"the prompt has {len(ids)} tokens", hint)
        return self._begin(ids)

    def whole(self, passage: Passage) -> dict[str, Array]:
        """The tensors of a passage, cut at the model's most tokens.

        Raises:
            UsageError: `input-invalid`, when it has no two tokens or is not Unicode.
        """
        ids = self._ids(passage.text)[: self._max_length]
        if len(ids) < 2:
            raise UsageError("input-invalid", f"the text has {len(ids)} tokens", "take texts of two tokens or more")
        return self._begin(ids)

    def _ids(self, text: str) -> list[int]:
        try:
            return list(self._tokenizer.encode(text).ids)
        except TypeError as error:
            raise UsageError("input-invalid", f"the prompt can't be read: {error}", "send valid Unicode") from error

    def _begin(self, ids: Sequence[int]) -> dict[str, Array]:
        """The tensors of a run with nothing before it."""
        past = {
            name: np.zeros([1, *(max(0, length) for length in spec.shape[1:])], dtype=spec.dtype)
            for name, spec in self._inputs.items()
            if name in self._spec.past
        }
        return self._tensors(ids, len(ids), past)

    def write(self, prompt: Prompt, infer: Infer) -> TextAnswer:
        """Go on with a prompt."""
        tensors = self.first(prompt)
        given: list[int] = tensors[_IDS][0].tolist()
        room = min(prompt.max_new_tokens, self._max_length - len(given))
        made = list(self._tokens(tensors, prompt, room, infer))
        stopped = bool(made) and made[-1] in self._spec.stop_ids
        before, whole = (self._tokenizer.decode(ids) for ids in (given, given + made))
        return {"text": whole.removeprefix(before), "tokens": len(made), "finish": "stop" if stopped else "length"}

    def _tokens(self, tensors: dict[str, Array], prompt: Prompt, room: int, infer: Infer) -> Iterator[int]:
        drawn = np.random.default_rng(prompt.seed)
        total = tensors[_IDS].shape[1]
        for _ in range(room):
            outputs = infer(tensors)
            token = _next(outputs[self._spec.output][0, -1], prompt.temperature, drawn)
            yield token
            if token in self._spec.stop_ids:
                return
            total += 1
            past = {name: outputs[made] for name, made in zip(self._spec.past, self._spec.present, strict=True)}
            tensors = self._tensors([token], total, past)

    def _tensors(self, ids: Sequence[int], total: int, past: Mapping[str, Array]) -> dict[str, Array]:
        """The inputs for `ids`, the last of `total` tokens."""
        whole = {_IDS: list(ids), _MASK: [1] * total, _POSITIONS: list(range(total - len(ids), total))}
        counted = {
            name: np.array([values], dtype=self._inputs[name].dtype)
            for name, values in whole.items()
            if name in self._inputs
        }
        return {**counted, **past}


def likelihood(tensors: Mapping[str, Array], infer: Infer, *, output: str) -> LikelihoodAnswer:
    """How likely a passage is: the chance of each token after the ones before it."""
    wanted = tensors[_IDS][0, 1:]
    scored = infer(tensors)[output][0]
    # One position at a time: a large vocabulary in float64 for all of them would not fit a board.
    total = sum(_log_chance(logits, int(token)) for logits, token in zip(scored, wanted, strict=False))
    return {"log_likelihood": total, "tokens": len(wanted)}


def _log_chance(logits: Array, token: int) -> float:
    shifted = logits.astype(np.float64) - float(logits.max())
    return float(shifted[token] - np.log(np.exp(shifted).sum()))


def _next(logits: Array, temperature: float, drawn: np.random.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    chances = softmax(logits / np.float32(temperature)).astype(np.float64)
    return int(drawn.choice(len(chances), p=chances / chances.sum()))
